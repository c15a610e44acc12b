from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipeline.fake_server.answers import digest
from pipeline.fake_server.options import REASONING_STYLES, parse
from pipeline.fake_server.protocol import BadRequest, complete, encode, parse_prompt, parse_request
from tests.faulty_server import wordless

QUESTION = {"role": "user", "content": "1 + 1"}
CORRECT = ("--correct=1", "--malformed=0", "--truncated=0")
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
USAGE = {"include_usage": True}


def body_of(*flags: str, fault: str | None = None, **fields: Any) -> bytes:
    """The answer to "1 + 1", or to the messages given."""
    request = parse_request(json.dumps({"model": "fake", "messages": [QUESTION]} | fields).encode())
    options = parse(flags)
    key = digest(options.seed, request.model, request.messages, request.seed)
    completion = complete(options, request, key)
    if fault:
        completion = wordless(fault, completion, key, request.stream)
    return b"".join(encode(request, completion))


def answer_of(*flags: str, **fields: Any) -> dict[str, Any]:
    """The fields of the answer's only choice, and "usage"."""
    answer = json.loads(body_of(*flags, **fields))
    return answer["choices"][0] | {"usage": answer["usage"]}


def events_of(*flags: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of a streamed answer, without the [DONE] that ends it."""
    *events, done, nothing = body_of(*flags, stream=True, **fields).decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def joined(events: list[dict[str, Any]], name: str) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get(name, "") for choice in choices)


# ------------------------------------------------------------------------------ streams


@pytest.mark.parametrize("style", REASONING_STYLES)
@pytest.mark.parametrize("kind", ["correct", "malformed", "truncated"])
def test_a_streamed_answer_joins_to_the_one_that_is_not(style: str, kind: str) -> None:
    shares = [f"--{name}={float(name == kind)}" for name in ("correct", "malformed", "truncated")]
    whole = answer_of(f"--reasoning={style}", *shares)
    events = events_of(f"--reasoning={style}", *shares, stream_options=USAGE)
    for name in ("content", "reasoning_content", "reasoning"):
        assert joined(events, name) == (whole["message"].get(name) or "")
    first, *pieces, last, usage = events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {piece["choices"][0]["finish_reason"] for piece in pieces} == {None}
    assert last["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


def test_usage_ends_a_stream_only_on_request() -> None:
    assert not [event for event in events_of() if "usage" in event]


def test_an_answer_has_as_many_tokens_in_every_reasoning_style() -> None:
    assert (
        len({answer_of(f"--reasoning={style}")["usage"]["completion_tokens"] for style in REASONING_STYLES})
        == 1
    )


# ------------------------------------------------------------------------------ answers without content


def test_an_empty_answer_has_no_content_and_no_usage() -> None:
    answers = [answer_of(fault="empty", seed=seed) for seed in range(20)]
    messages = [answer["message"] for answer in answers]
    assert {"role": "assistant", "content": None} in messages
    assert {"role": "assistant"} in messages
    assert {answer["usage"] for answer in answers} == {None}
    events = events_of(fault="empty", stream_options=USAGE)
    assert (joined(events, "content"), events[-1]["usage"]) == ("", None)


def test_a_tool_call_takes_the_place_of_an_answer() -> None:
    choice = answer_of(fault="tools")
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "calculate"
    last = events_of(fault="tools")[-1]["choices"][0]
    assert last["finish_reason"] == "tool_calls"
    assert last["delta"]["tool_calls"][0]["index"] == 0


# ------------------------------------------------------------------------------ token limits, continuing


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_truncated_at_the_token_limit(field: str) -> None:
    total = answer_of(*CORRECT)["usage"]["completion_tokens"]
    truncated = answer_of(*CORRECT, **{field: 5})
    assert truncated["message"]["content"] == "<think>\nI look for the numbers"
    assert (truncated["finish_reason"], truncated["usage"]["completion_tokens"]) == ("length", 5)
    assert body_of(*CORRECT, **{field: total}) == body_of(*CORRECT)
    assert answer_of(*CORRECT, **{field: total - 1})["finish_reason"] == "length"


def continuation(start: str, *flags: str, prefix: bool = False, **fields: Any) -> dict[str, Any]:
    """The continuation of `start`, the start of an answer."""
    last = {"role": "assistant", "content": start} | ({"prefix": True} if prefix else {})
    return answer_of(*flags, messages=[QUESTION, last], **({} if prefix else CONTINUE), **fields)


@pytest.mark.parametrize("prefix", [False, True])
def test_an_answer_continues_where_the_last_message_ends(prefix: bool) -> None:
    flags = (*CORRECT, "--words=60")
    whole = answer_of(*flags)
    start, tokens, reasons = "", 0, []
    while "stop" not in reasons:
        answer = continuation(start, *flags, prefix=prefix, max_tokens=25)
        start += answer["message"]["content"]
        tokens += answer["usage"]["completion_tokens"]
        reasons.append(answer["finish_reason"])
    assert start == whole["message"]["content"]
    assert (tokens, reasons) == (whole["usage"]["completion_tokens"], ["length", "length", "stop"])
    assert continuation(start[:-7], *flags, prefix=prefix)["message"]["content"] == start[-7:]
    assert continuation(start, *flags, prefix=prefix)["message"]["content"] == ""


@pytest.mark.parametrize("style", ["reasoning_content", "reasoning", "opened"])
def test_reasoning_continues_with_or_without_the_tag_that_opened_it(style: str) -> None:
    flags = (*CORRECT, f"--reasoning={style}")
    name = "content" if style == "opened" else style
    whole = answer_of(*flags)["message"]
    start = answer_of(*flags, max_tokens=5)["message"][name]
    for prefix in (start, f"<think>\n{start}"):
        rest = continuation(prefix, *flags)["message"]
        assert start + rest[name] == whole[name]
        assert rest["content"] == whole["content"] or style == "opened"


def test_truncated_reasoning_is_continued_to_its_end() -> None:
    flags = ("--correct=0", "--malformed=0", "--truncated=1")
    truncated = answer_of(*flags)
    rest = continuation(truncated["message"]["content"], *flags)
    assert (truncated["finish_reason"], rest["finish_reason"]) == ("length", "stop")
    assert rest["message"]["content"].endswith("The answer is 2.")


@pytest.mark.parametrize(
    "fields",
    [
        CONTINUE,
        {"messages": [QUESTION | {"prefix": True}]},
        {"messages": [QUESTION, {"role": "assistant", "content": "<think>"}], "continue_final_message": True},
        {"messages": [{"role": "user"}]},
        {"max_tokens": 0},
    ],
)
def test_requests_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        body_of(**fields)


# ------------------------------------------------------------------------------ log-probabilities


def logprobs_of(*flags: str, **fields: Any) -> list[dict[str, Any]]:
    return answer_of(*flags, logprobs=True, **fields)["logprobs"]["content"]


@pytest.mark.parametrize("style", ["inline", "opened"])
def test_each_token_has_its_log_probabilities(style: str) -> None:
    flags = (*CORRECT, f"--reasoning={style}", "--words=100")
    tokens, whole = logprobs_of(*flags), answer_of(*flags)
    assert len(tokens) == whole["usage"]["completion_tokens"]
    assert b"".join(bytes(t["bytes"]) for t in tokens).decode() == whole["message"]["content"]
    assert all(token["logprob"] < 0 for token in tokens)


def prompt_logprobs(prompt: list[int], k: int) -> list[Any]:
    request = parse_prompt(json.dumps({"model": "fake", "prompt": prompt, "prompt_logprobs": k}).encode())
    (body,) = encode(request, complete(parse([]), request, "key"))
    return json.loads(body)["choices"][0]["prompt_logprobs"]


def test_a_prompt_s_tokens_have_the_likeliest_at_their_positions() -> None:
    prompt = [3, 5, 7] * 40
    first, *rest = prompt_logprobs(prompt, 4)
    assert first is None
    for token, position in zip(prompt[1:], rest, strict=True):
        assert 4 <= len(position) <= 5
        assert str(token) in position
        assert sum(math.exp(other["logprob"]) for other in position.values()) < 1.0001
        ranks = {other["rank"]: other["logprob"] for other in position.values()}
        assert sorted(ranks.values(), reverse=True) == [ranks[rank] for rank in sorted(ranks)]
    assert {len(position) for position in prompt_logprobs(prompt, 0)[1:]} == {1}


@pytest.mark.parametrize(
    "fields", [{"prompt": "text"}, {"prompt": []}, {"prompt_logprobs": None}, {"prompt_logprobs": 21}]
)
def test_prompts_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        parse_prompt(json.dumps({"model": "fake", "prompt": [1], "prompt_logprobs": 1} | fields).encode())


def test_log_probabilities_are_the_same_in_a_stream_and_in_parts() -> None:
    flags = (*CORRECT, "--reasoning=reasoning")
    whole = logprobs_of(*flags)
    events = events_of(*flags, logprobs=True)
    streamed = [event["choices"][0]["logprobs"] for event in events]
    assert [token for part in streamed if part for token in part["content"]] == whole
    truncated = answer_of(*flags, max_tokens=5)["message"]["reasoning"]
    rest = continuation(truncated, *flags, logprobs=True)
    assert rest["logprobs"]["content"] == whole[5:]


def test_log_probabilities_come_only_on_request() -> None:
    assert answer_of()["logprobs"] is None


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"thinking": False}},
        {"messages": [{"role": "user", "content": "1 + 1 /no_think"}]},
    ],
)
def test_with_thinking_switched_off_it_says_the_response_alone(fields: dict[str, Any]) -> None:
    assert answer_of(*CORRECT, **fields)["message"]["content"] == "The answer is 2."
    assert "<think>" in answer_of(*CORRECT, chat_template_kwargs={"thinking": True})["message"]["content"]

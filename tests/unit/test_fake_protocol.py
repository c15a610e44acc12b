from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from pipeline.fake_server.answers import digest
from pipeline.fake_server.options import WAYS, parse
from pipeline.fake_server.protocol import BadRequest, read, reply

QUESTION = {"role": "user", "content": "1 + 1"}
RIGHT = ("--right=1", "--malformed=0", "--truncated=0")
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
USAGE = {"include_usage": True}


def body_of(*flags: str, odd: str | None = None, **fields: Any) -> bytes:
    """The answer to "1 + 1", or to the messages given."""
    asked = read(json.dumps({"model": "fake", "messages": [QUESTION]} | fields).encode())
    options = parse("", flags)
    request = digest(options.seed, asked.model, asked.messages, asked.seed)
    return b"".join(reply(options, asked, request, odd).chunks)


def answer_of(*flags: str, **fields: Any) -> dict[str, Any]:
    """The answer, with its only choice's fields beside "usage"."""
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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["right", "malformed", "truncated"])
def test_a_streamed_answer_joins_to_the_one_that_is_not(way: str, kind: str) -> None:
    shares = [f"--{name}={float(name == kind)}" for name in ("right", "malformed", "truncated")]
    whole = answer_of(f"--thoughts={way}", *shares)
    events = events_of(f"--thoughts={way}", *shares, stream_options=USAGE)
    for name in ("content", "reasoning_content", "reasoning"):
        assert joined(events, name) == (whole["message"].get(name) or "")
    first, *pieces, last, usage = events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {piece["choices"][0]["finish_reason"] for piece in pieces} == {None}
    assert last["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


def test_usage_ends_a_stream_only_when_it_is_asked_for() -> None:
    assert not [event for event in events_of() if "usage" in event]


def test_every_way_of_sending_the_thought_has_as_many_tokens() -> None:
    assert len({answer_of(f"--thoughts={way}")["usage"]["completion_tokens"] for way in WAYS}) == 1


# ------------------------------------------------------------------------------ answers without words


def test_an_empty_answer_has_no_content_and_no_usage() -> None:
    answers = [answer_of(odd="empty", seed=seed) for seed in range(20)]
    messages = [answer["message"] for answer in answers]
    assert {"role": "assistant", "content": None} in messages
    assert {"role": "assistant"} in messages
    assert {answer["usage"] for answer in answers} == {None}
    events = events_of(odd="empty", stream_options=USAGE)
    assert (joined(events, "content"), events[-1]["usage"]) == ("", None)


def test_a_tool_call_takes_the_place_of_an_answer() -> None:
    choice = answer_of(odd="tools")
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "calculate"
    last = events_of(odd="tools")[-1]["choices"][0]
    assert last["finish_reason"] == "tool_calls"
    assert last["delta"]["tool_calls"][0]["index"] == 0


# ------------------------------------------------------------------------------ token limits, going on


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_limit_of_tokens(field: str) -> None:
    total = answer_of(*RIGHT)["usage"]["completion_tokens"]
    cut = answer_of(*RIGHT, **{field: 5})
    assert cut["message"]["content"] == "<think>\nI look for the numbers"
    assert (cut["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 5)
    assert body_of(*RIGHT, **{field: total}) == body_of(*RIGHT)
    assert answer_of(*RIGHT, **{field: total - 1})["finish_reason"] == "length"


def going_on(said: str, *flags: str, prefix: bool = False, **fields: Any) -> dict[str, Any]:
    """What follows `said`, the start of an answer."""
    start = {"role": "assistant", "content": said} | ({"prefix": True} if prefix else {})
    return answer_of(*flags, messages=[QUESTION, start], **({} if prefix else CONTINUE), **fields)


@pytest.mark.parametrize("prefix", [False, True])
def test_an_answer_goes_on_where_the_last_message_ends(prefix: bool) -> None:
    flags = (*RIGHT, "--words=60")
    whole = answer_of(*flags)
    said, tokens, reasons = "", 0, []
    while "stop" not in reasons:
        answer = going_on(said, *flags, prefix=prefix, max_tokens=25)
        said += answer["message"]["content"]
        tokens += answer["usage"]["completion_tokens"]
        reasons.append(answer["finish_reason"])
    assert said == whole["message"]["content"]
    assert (tokens, reasons) == (whole["usage"]["completion_tokens"], ["length", "length", "stop"])
    assert going_on(said[:-7], *flags, prefix=prefix)["message"]["content"] == said[-7:]
    assert going_on(said, *flags, prefix=prefix)["message"]["content"] == ""


@pytest.mark.parametrize("way", ["reasoning_content", "reasoning", "opened"])
def test_a_thought_goes_on_with_or_without_the_tag_that_opened_it(way: str) -> None:
    flags = (*RIGHT, f"--thoughts={way}")
    name = "content" if way == "opened" else way
    whole = answer_of(*flags)["message"]
    said = answer_of(*flags, max_tokens=5)["message"][name]
    for start in (said, f"<think>\n{said}"):
        rest = going_on(start, *flags)["message"]
        assert said + rest[name] == whole[name]
        assert rest["content"] == whole["content"] or way == "opened"


def test_a_thought_that_breaks_off_goes_on_to_its_end() -> None:
    flags = ("--right=0", "--malformed=0", "--truncated=1")
    cut = answer_of(*flags)
    rest = going_on(cut["message"]["content"], *flags)
    assert (cut["finish_reason"], rest["finish_reason"]) == ("length", "stop")
    assert rest["message"]["content"].endswith("The answer is 2.")


@pytest.mark.parametrize(
    "fields",
    [
        CONTINUE,
        {"messages": [QUESTION | {"prefix": True}]},
        {"messages": [QUESTION, {"role": "assistant", "content": "<think>"}], "continue_final_message": True},
        {"messages": [{"role": "user"}]},
        {"max_tokens": 0},
        {"logprobs": True, "top_logprobs": 21},
    ],
)
def test_requests_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        body_of(**fields)


# ------------------------------------------------------------------------------ log-probabilities


def logprobs_of(*flags: str, **fields: Any) -> list[dict[str, Any]]:
    return answer_of(*flags, logprobs=True, **fields)["logprobs"]["content"]


@pytest.mark.parametrize("way", ["inline", "opened"])
def test_each_token_has_its_log_probabilities(way: str) -> None:
    flags = (*RIGHT, f"--thoughts={way}", "--words=100")
    tokens, whole = logprobs_of(*flags, top_logprobs=4), answer_of(*flags)
    assert len(tokens) == whole["usage"]["completion_tokens"]
    assert b"".join(bytes(t["bytes"]) for t in tokens).decode() == whole["message"]["content"]
    likeliest = 0
    for token in tokens:
        candidates = {c["token"]: c["logprob"] for c in token["top_logprobs"]}
        assert len(candidates) == 4
        assert candidates[token["token"]] == token["logprob"]
        assert sum(math.exp(logprob) for logprob in candidates.values()) < 1.0001
        likeliest += token["logprob"] == max(candidates.values())
    assert 50 < likeliest < len(tokens)


def test_tokens_are_named_by_their_ids_when_asked() -> None:
    words = logprobs_of(top_logprobs=2)
    ids = logprobs_of(top_logprobs=2, return_tokens_as_token_ids=True)
    for word, token in zip(words, ids, strict=True):
        assert (word["bytes"], word["logprob"]) == (token["bytes"], token["logprob"])
        assert bytes(word["bytes"]).decode() == word["token"]
        names = [token["token"], *(c["token"] for c in token["top_logprobs"])]
        assert all(re.fullmatch(r"token_id:\d{1,5}", name) for name in names)
    assert len({token["token"] for token in ids}) == len({word["token"] for word in words})


def test_log_probabilities_are_the_same_in_a_stream_and_in_parts() -> None:
    flags = (*RIGHT, "--thoughts=reasoning")
    whole = logprobs_of(*flags, top_logprobs=2)
    events = events_of(*flags, logprobs=True, top_logprobs=2)
    streamed = [event["choices"][0]["logprobs"] for event in events]
    assert [token for part in streamed if part for token in part["content"]] == whole
    cut = answer_of(*flags, max_tokens=5)["message"]["reasoning"]
    rest = going_on(cut, *flags, logprobs=True, top_logprobs=2)
    assert rest["logprobs"]["content"] == whole[5:]


def test_log_probabilities_come_only_when_asked_for() -> None:
    assert answer_of()["logprobs"] is None
    assert answer_of(top_logprobs=3)["logprobs"] is None
    assert {len(token["top_logprobs"]) for token in logprobs_of()} == {0}
    assert answer_of("--no-logprobs", logprobs=True, top_logprobs=3)["logprobs"] is None

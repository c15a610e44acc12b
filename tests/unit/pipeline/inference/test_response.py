from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.inference.credentials import MAX_MESSAGE
from pipeline.inference.dialects import split_reasoning
from pipeline.inference.http_errors import RequestFailed, Retry
from pipeline.inference.response import Completion, CompletionReader, can_continue
from tests.serving import answered, chat, complete, events, stop, usage

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer


def read(body: str | bytes, chunk: int = 2**16, before: Completion | None = None) -> Completion:
    """What a reader makes of a body that comes in pieces."""
    data = body.encode() if isinstance(body, str) else body
    reader = CompletionReader()
    for at in range(0, len(data), chunk):
        reader.feed(data[at : at + chunk])
    return reader.completion(before)


# ------------------------------------------------------------------------------ reasoning


@pytest.mark.parametrize(
    ("content", "reasoning", "expected"),
    [
        ("<think>why</think>so", "", ("why", "so", False)),
        ("\n <think>\nwhy\n</think>\n\nso\n", "", ("why", "so", False)),
        ("why\n</think>\n\nso", "", ("why", "so", False)),
        ("so", "why", ("why", "so", False)),
        ("\n\nso", "\nwhy\n", ("why", "so", False)),
        ("<think>why", "", ("why", "", True)),
        ("", "why", ("why", "", True)),
        ("so", "", (None, "so", False)),
        ("so", " ", (None, "so", False)),
        ("<think>\n\n</think>\n\nso", "", (None, "so", False)),
        ("</think>so", "", (None, "so", False)),
        ("", "", (None, "", False)),
    ],
)
def test_unambiguous_reasoning_is_split_off(
    content: str, reasoning: str, expected: tuple[str | None, str, bool]
) -> None:
    assert split_reasoning(content, reasoning) == expected


@pytest.mark.parametrize(
    "content",
    [
        "<think>a</think>b</think>c",
        "<think>a<think>b</think>c",
        "first <think>a</think>b",
        "a</think>b</think>c",
        "so it is <think>",
        "a</think>b<think>c",
    ],
)
def test_ambiguous_tags_stay_whole_in_the_response(content: str) -> None:
    assert split_reasoning(content, "") == (None, content, False)


def test_tags_next_to_a_reasoning_field_stay_in_the_response() -> None:
    assert split_reasoning("<think>a</think>b", "why") == ("why", "<think>a</think>b", False)


@pytest.mark.parametrize(
    ("content", "reasoning", "expected"),
    [
        ("<think>\nwhy \n", "", ("why \n", "", True)),
        ("", "\nwhy \n", ("why \n", "", True)),
        ("<think>why \n</think>\nso \n", "", ("why", "so \n", False)),
        ("\nso \n", "", (None, "so \n", False)),
    ],
)
def test_the_end_of_a_truncated_text_is_unchanged(
    content: str, reasoning: str, expected: tuple[str | None, str, bool]
) -> None:
    assert split_reasoning(content, reasoning, truncated=True) == expected


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["correct", "malformed", "truncated"])
def test_every_form_of_reasoning_gives_the_same_completion(
    fake_server: StartFakeServer, kind: str, stream: bool
) -> None:
    shares = [f"--{name}={float(name == kind)}" for name in ("correct", "malformed", "truncated")]
    ways = ["inline", "reasoning_content", "reasoning"] + (["opened"] if kind == "correct" else [])
    urls = [fake_server("--reasoning", way, *shares).url for way in ways]
    first, *others = [asyncio.run(complete(url, stream=stream)) for url in urls]
    assert first.reasoning
    assert first.response == ("The answer is 42." if kind == "correct" else "")
    assert first.finish_reason == ("length" if kind == "truncated" else "stop")
    assert first.prompt_tokens
    assert first.completion_tokens
    assert others == [first] * len(others)


# ------------------------------------------------------------------------------ streams

STREAM = [{"role": "assistant", "content": ""}, {"reasoning_content": "wh"}, {"reasoning": "y"}]
STREAM += [{"content": "s"}, {"content": "o \u00e9"}, stop(), usage(3, 4)]
WHOLE = Completion("why", "so \u00e9", "stop", 3, 4)


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stream_is_read_however_its_bytes_are_split(end: str, chunk: int) -> None:
    assert read(events(*STREAM, end=end), chunk) == WHOLE
    assert read(b"\xef\xbb\xbf" + events(*STREAM, end=end).encode(), chunk) == WHOLE


def test_comments_and_other_fields_of_a_stream_are_passed_over() -> None:
    noise = ": keep-alive\n\n", "event: message\nid: 7\nretry: 10\n", "\n\n", "data:\n\n"
    assert read(events(*noise, *STREAM[:3], *noise, *STREAM[3:], ": end\n\n")) == WHOLE


def test_data_over_several_lines_is_one_event() -> None:
    text = events('data: {"choices": [{"delta":\ndata:{"content": "so"}}]}\n\n', stop())
    assert read(text).response == "so"


def test_blank_lines_before_one_json_body_are_passed_over() -> None:
    assert read("\n\n \r\n" + json.dumps(chat(content="so"))).response == "so"


def test_a_long_stream_is_not_buffered() -> None:
    pieces = [{"content": f"{i} "} for i in range(5000)]
    reader = CompletionReader()
    for piece in (*pieces, stop()):
        reader.feed(events(piece, done=False).encode())
        assert len(reader._parser._buffer) < 2**17
    assert reader.completion().response == "".join(f"{i} " for i in range(5000)).strip()
    assert reader.pieces == 5000


def test_a_finish_reason_ends_a_stream() -> None:
    assert read(events(*STREAM, done=False)) == WHOLE
    assert read(events(*STREAM, done=False).strip()) == WHOLE


def test_done_ends_a_stream_without_a_finish_reason() -> None:
    assert read(events({"content": "so"})).finish_reason == "unknown"


@pytest.mark.parametrize("body", [events({"content": "so"}, done=False), events(stop(), done=False)[:-9]])
def test_a_stream_without_an_end_is_retried(body: str) -> None:
    with pytest.raises(Retry) as failed:
        read(body)
    assert failed.value.cause == "dropped"


def test_an_event_that_is_not_json_is_retried() -> None:
    with pytest.raises(Retry) as failed:
        read(events("data: {oops\n\n", *STREAM))
    assert failed.value.cause == "garbage"


def test_deltas_of_other_choices_are_ignored() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert read(events(other, {"content": "so"}, stop(), other)) == Completion(None, "so", "stop", None, None)


def test_a_json_body_is_read_although_a_stream_was_requested() -> None:
    assert answered(chat(content="so"), stream=True).response == "so"


def test_a_stream_is_read_although_none_was_requested() -> None:
    assert answered(events({"content": "so"}, stop()), stream=False).response == "so"


# ------------------------------------------------------------------------------ unusual but valid responses


@pytest.mark.parametrize(
    "said", ["x", {"prompt_tokens": -1}, {"prompt_tokens": 10**30}, {"prompt_tokens": True}], ids=str
)
def test_invalid_token_counts_are_ignored(said: Any) -> None:
    completion = answered(chat(content="so") | {"usage": said})
    assert (completion.response, completion.prompt_tokens) == ("so", None)


@pytest.mark.parametrize(
    "reason", ["abort", "error", "insufficient_system_resource", "network_error", "CANCELLED"]
)
def test_a_response_aborted_by_the_server_is_retried(reason: str) -> None:
    assert answered(chat(reason, content="s"), chat(content="so"), max_retries=1).response == "so"


def test_null_usage_gives_no_token_counts() -> None:
    assert answered(chat(content="so")) == Completion(None, "so", "stop", None, None)


def test_the_first_of_several_choices_is_read() -> None:
    first, second = chat(content="a")["choices"][0], chat(content="b")["choices"][0]
    assert answered({"choices": [first, second]}).response == "a"
    assert answered({"choices": [second | {"index": 1}, first | {"index": 0}]}).response == "a"


def test_tool_calls_without_content_are_an_empty_response() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    expected = Completion(None, "", "tool_calls", None, None)
    assert answered(chat("tool_calls", **call)) == expected
    assert answered(events(call, stop("tool_calls"))) == expected


def test_missing_content_is_an_empty_response() -> None:
    assert answered(chat()) == Completion(None, "", "stop", None, None)


def test_a_missing_finish_reason_is_called_unknown() -> None:
    assert answered({"choices": [{"message": {"content": "so"}}]}).finish_reason == "unknown"


def test_content_in_parts_is_joined() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}
    texts = [{"type": "text", "text": "s"}, {"type": "text", "text": "o"}]
    assert answered(chat(content=texts)).response == "so"
    assert answered(chat(content=[thinking, *texts])) == Completion("why", "so", "stop", None, None)


def test_the_refusal_field_is_the_response() -> None:
    assert answered(chat(content=None, refusal="I will not.")).response == "I will not."


def test_a_compressed_response_is_read() -> None:
    body = gzip.compress(json.dumps(chat(content="so")).encode())
    assert answered((200, body, {"Content-Encoding": "gzip"})).response == "so"


# ------------------------------------------------------------------------------ dialects of servers


@pytest.mark.parametrize(
    ("word", "end"),
    [
        *((word, "stop") for word in ("stop", "eos", "eos_token", "STOP", "end_turn", "FINISH_REASON_STOP")),
        *((word, "length") for word in ("length", "MAX_TOKENS", "max_tokens", "model_length", "token_limit")),
        ("SAFETY", "safety"),
        ("content-filter", "content_filter"),
        ("x" * 40, "other"),
        ("<script>", "other"),
        ("", "unknown"),
        ("null", "unknown"),
    ],
)
def test_finish_reasons_of_all_servers_are_normalized(word: str, end: str) -> None:
    assert answered(chat(word, content="so")).finish_reason == end
    assert read(events({"content": "so"}, stop(word))).finish_reason == end


def test_an_empty_finish_reason_is_none() -> None:
    assert read(events({"content": "so"}, stop(), stop(""))).finish_reason == "stop"
    with pytest.raises(Retry, match="without a finish_reason"):
        read(events(stop("", content="s"), stop("", content="o"), done=False))


def test_a_choice_without_delta_is_ignored() -> None:
    remark = {"choices": [{"index": 0, "finish_reason": None, "content_filter_results": {}}]}
    nothing = {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}
    end = {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}
    body = events(remark, {"content": "so"}, nothing, remark, end, remark)
    assert read(body) == Completion(None, "so", "stop", None, None)
    with pytest.raises(RequestFailed, match="there are no choices"):
        read(events(remark))


def test_choices_are_told_apart_by_their_index() -> None:
    first, second = ({"choices": [{"index": i, "delta": {"content": t}}]} for i, t in enumerate(("so", "no")))
    end = {"choices": [{"index": i, "delta": {}, "finish_reason": "stop"} for i in (1, 0)]}
    assert read(events(second, first, end)).response == "so"
    only = [{"choices": [c | {"index": 1} for c in piece["choices"]]} for piece in (first, stop())]
    assert read(events(*only)).response == "so"


def test_a_whole_message_at_the_end_of_a_stream_is_not_repeated() -> None:
    last = {"choices": [{"index": 0, "message": {"content": "so"}, "finish_reason": "stop"}]}
    assert read(events({"content": "s"}, {"content": "o"}, last)).response == "so"
    assert read(events(last)).response == "so"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<think>", "</think>"),
        ("<THINK>\n", "</THINK>"),
        ("< think >", "</ think >"),
        ("<thinking>", "</thinking>"),
        ("<thought>\n", "\n</thought>\n\n"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n"),
        ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("analysis", "assistantfinal"),
        ("<|channel>thought\n", "<channel|>"),
        ("Here is my thought process:\n\n", "\n\nHere is my response:\n\n"),
    ],
)
def test_one_pair_of_known_marks_encloses_the_reasoning(begin: str, end: str) -> None:
    assert split_reasoning(f"{begin}why{end}so", "") == ("why", "so", False)
    assert split_reasoning("so", f"{begin}why{end}") == ("why", "so", False)  # the server's parser left them
    twice = f"{begin}why{end}so{begin}why{end}so"
    assert split_reasoning(twice, "") == (None, twice, False)


def test_marks_around_the_response_are_removed() -> None:
    content = "<|begin_of_thought|>why<|end_of_thought|><|begin_of_solution|>so<|end_of_solution|>\n"
    assert split_reasoning(content, "") == ("why", "so", False)


def test_plain_words_are_marks_only_in_pairs() -> None:
    for content in (
        "analysis shows that it is 7",
        "Here is my thought process: first",
        "it is assistantfinal",
    ):
        assert split_reasoning(content, "") == (None, content, False)


def test_marks_left_by_a_parser_are_removed_from_the_reasoning_field() -> None:
    assert split_reasoning("so", "why\n</think>") == ("why", "so", False)
    assert split_reasoning("</think>\n\nso", "why") == ("why", "so", False)
    assert split_reasoning("", "why</think>so") == ("why", "so", False)
    assert split_reasoning("so", "why</think>no") == ("why</think>no", "so", False)  # for a filter to refuse


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "why"},
        {"reasoning": "why"},
        {"thinking": "why"},
        {"reasoning": "why", "reasoning_content": "why"},
        {"reasoning": [{"type": "reasoning.text", "text": "why"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "why", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "why"}]},
        {"reasoning": "why", "reasoning_details": [{"type": "reasoning.text", "text": "why"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "why"}, {"type": "redacted_thinking"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}, "so"]},
        {"content": [{"type": "reasoning", "text": "why"}, {"type": "output_text", "text": "so"}]},
        {"thinking": True, "reasoning_content": "why"},
    ],
    ids=str,
)
def test_reasoning_is_read_from_any_known_field(fields: dict[str, Any]) -> None:
    expected = Completion("why", "so", "stop", None, None)
    assert answered(chat(**{"content": "so", **fields})) == expected
    content = {"content": fields.pop("content", "so")}
    assert read(events(fields, {"reasoning_details": []}, content, stop())) == expected


def test_encrypted_reasoning_is_none() -> None:
    hidden = [{"type": "reasoning.encrypted", "data": "x"}]
    assert answered(chat(content="so", reasoning_details=hidden)).reasoning is None


@pytest.mark.parametrize("mark", ["<|eot_id|>", "<|im_end|>\n", "</s>", "<|im_end|><|endoftext|>"])
def test_end_marks_are_removed_from_a_complete_response(mark: str) -> None:
    assert read(events({"content": f"<think>why</think>so{mark}"}, stop())).response == "so"
    assert read(events({"reasoning": "why"}, {"content": f"so{mark}"}, stop())).response == "so"
    truncated = read(events({"content": f"so{mark}"}, stop("length")))
    assert truncated.response == f"so{mark}"  # its continuation needs the exact text


def test_half_a_character_does_not_lose_the_response() -> None:
    whole, halves = "so \U0001f600!", ("\\ud83d", "\\ude00")

    def event(text: str) -> str:
        return f'data: {{"choices": [{{"index": 0, "delta": {{"content": "{text}"}}}}]}}\n\n'

    first, second = (event(text) for text in (f"so {halves[0]}", f"{halves[1]}!"))
    assert read(events(first, second, stop())).response == whole
    assert read(events(first, event("!"), stop())).response == "so \ufffd!"
    data = event("so X").encode(), event("X!").encode()
    for size in (1, 2, 3):  # bytes of one character in two events
        emoji = "\U0001f600".encode()
        body = data[0].replace(b"X", emoji[:size]) + data[1].replace(b"X", emoji[size:])
        assert read(body + events(stop()).encode()).response == whole
    bad = data[0].replace(b"X", b"\xe9t\xe9") + events(stop()).encode()  # Latin-1
    assert read(bad).response == "so \ufffdt\ufffd"
    assert read('{"choices": [{"message": {"content": "\\udfff"}}]}').response == "\ufffd"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<!DOCTYPE html><html><style>h1 {}</style><h1>Sign in</h1></html>", "Sign in"),
        ("upstream connect error\x1b[31m", "upstream connect error"),
        (events({"choices": None, "error_message": "max_tokens is too large"}), "max_tokens is too large"),
        ('event: error\ndata: {"code": "Bad", "message": "Range of max_tokens"}\n\n', "Range of max_tokens"),
        ({"base_resp": {"status_msg": "no such group"}}, "no such group"),
        ((400, {"errors": [{"msg": "\ud83d no"}]}), "no"),
        ((400, "<html><h1>Not for you</h1></html>"), "HTTP 400: Not for you"),
    ],
)
def test_a_failure_quotes_the_servers_message(body: Any, said: str) -> None:
    with pytest.raises(RequestFailed) as failed:
        answered(body)
    assert said in str(failed.value)
    assert str(failed.value).isprintable()


def test_keys_in_a_servers_message_are_hidden() -> None:
    with pytest.raises(RequestFailed) as failed:
        answered("<p>no account for sk-abcdefghijklmnop</p>")
    assert "no account for [key]" in str(failed.value)


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ({"prompt_tokens": 12.0, "completion_tokens": "21"}, (12, 21)),
        ({"prompt_tokens": 12}, (12, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, None)),  # although there is text
        ({}, (None, None)),
    ],
)
def test_token_counts_are_read_and_missing_ones_are_not_0(
    said: dict[str, Any], counts: tuple[int | None, ...]
) -> None:
    completion = answered(chat(content="so") | {"usage": said})
    assert (completion.prompt_tokens, completion.completion_tokens) == counts


def test_token_counts_of_zero_after_others_are_ignored() -> None:
    assert read(events({"content": "so"}, usage(3, 4), stop(), usage(0, 0))).completion_tokens == 4


# ------------------------------------------------------------------------------ hostile responses


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        "7",
        {},
        {"choices": 5},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": []}]},
        {"choices": [{"message": "so"}]},
        {"choices": [{"message": {"content": "so"}, "finish_reason": 7}]},
        {"choices": [{"message": {"content": "so"}, "finish_reason": "x" * 1000}]},
        chat(content=7),
        chat(content=[{"type": "text", "text": 7}]),
        chat(content=[{"type": "image_url"}]),
        chat(content=[["so", 7]]),
        chat(content="so", reasoning_content={"images": ["why"]}),
        chat(content="so", reasoning=[{"type": "reasoning.image"}]),
        {"error": {"message": "upstream is down", "code": 500}},
        {"error": {"message": "too long", "code": 400}},
        "[" * 100_000 + "]" * 100_000,
        '{"choices": ' + "[" * 100_000,
        b"\xff\xfe",
        "data: [DONE]\n\n",
        "data: 7\n\n",
        ": keep-alive\n\n",
        events({"error": "upstream is down"}),
    ],
)
def test_a_malformed_response_fails_its_request_in_one_line(body: Any) -> None:
    with pytest.raises(RequestFailed) as failed:
        answered(body)
    assert len(str(failed.value).splitlines()) == 1
    assert len(str(failed.value)) < MAX_MESSAGE + 100


# ------------------------------------------------------------------------------ continuation

TRUNCATED = Completion("I count: 1, ", "", "length", 10, 4, thinking=True)
PLAIN = Completion(None, "I count: 1, ", "length", 10, 4)


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [
        (TRUNCATED, True),
        (PLAIN, True),
        (Completion("why", "", "stop", 1, 1, thinking=True), False),
        (Completion("why", "so it", "length", 1, 1), False),
        (Completion("why", "", "length", 1, 1), False),
        (Completion(None, "", "length", 1, 1), False),
        (Completion(None, "a<think>b", "length", 1, 1), False),
    ],
)
def test_only_responses_without_complete_reasoning_can_be_continued(
    truncated: Completion, expected: bool
) -> None:
    assert can_continue(truncated) is expected


def test_the_completion_of_a_stream_tells_whether_it_can_be_continued() -> None:
    assert can_continue(read(events({"content": "<think>\nwhy "}, stop("length"))))
    assert can_continue(read(events({"reasoning": "why "}, stop("length"))))
    assert not can_continue(read(events({"content": "<think>\nwhy\n</think>\n"}, stop("length"))))
    assert not can_continue(read(events({"reasoning": "why", "content": "\n\n"}, stop("length"))))


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([{"content": "2.\n</think>\n\nIt is 2."}], ("I count: 1, 2.", "It is 2.", False)),
        ([{"reasoning": "2.\n"}, {"content": "\nIt is 2."}], ("I count: 1, 2.", "It is 2.", False)),
        ([{"reasoning": "2.\n</think>\nIt is 2."}], ("I count: 1, 2.", "It is 2.", False)),
        ([{"reasoning": "\n"}, {"content": "\n\nIt is 2."}], ("I count: 1,", "It is 2.", False)),
        ([{"reasoning": "\n"}], ("I count: 1, \n", "", True)),
        ([{"content": "2, 3, "}], ("I count: 1, 2, 3, ", "", True)),
        ([{"reasoning": "2, 3, "}], ("I count: 1, 2, 3, ", "", True)),
        ([{"content": "<think>\nI count: 1, 2.</think>It is 2."}], ("I count: 1, 2.", "It is 2.", False)),
        ([], ("I count: 1, ", "", True)),
    ],
)
def test_reasoning_is_joined_with_its_continuation(
    deltas: list[dict[str, Any]], expected: tuple[str, str, bool]
) -> None:
    joined = read(events(*deltas, stop("length"), usage(14, 5)), before=TRUNCATED)
    assert (joined.reasoning, joined.response, joined.thinking) == expected
    assert (joined.prompt_tokens, joined.completion_tokens) == (24, 9)


def test_plain_text_is_joined_with_its_continuation_and_split_again() -> None:
    joined = read(events({"content": "2.</think>It is 2."}, stop()), before=PLAIN)
    assert joined == Completion(
        "I count: 1, 2.", "It is 2.", "stop", None, None
    )  # counts of one part are not those of both
    joined = read(events({"content": "2."}, stop(), usage(1, 1)), before=PLAIN)
    assert joined == Completion(None, "I count: 1, 2.", "stop", 11, 5)

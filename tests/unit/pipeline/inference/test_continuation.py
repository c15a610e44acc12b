"""How a truncated response is continued: as a message, as a prompt with the text so far, or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from pydantic_core import to_json

from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.inference.chat_request import chat_body
from pipeline.inference.response import Completion, can_continue
from pipeline.rows import Message
from tests.serving import SAMPLING, Script, as_response, chat, client, serving

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer

QUESTION = [Message(role="user", content="What is 12 + 30?")]
TRUNCATED = Completion("I count: 1, ", "", "length", 10, 4, thinking=True)
PLAIN = Completion(None, "I count: 1, ", "length", 10, 4)
OTHER = Completion(None, "[THINK]I count: 1, ", "length", 10, 4)
CLOSED = "<think>\n\n</think>\n\n"


class Templated(Script):
    """A server that exposes its chat template as vLLM does. A token is one character, except `marks`."""

    def __init__(self, *answers: Any, opens: str = "", before: str = "", marks: tuple[str, ...] = ()) -> None:
        super().__init__(*answers)
        self.opens, self.before, self.marks = opens, before, marks
        self.paths: list[str] = []

    async def __call__(self, http: web.Request) -> web.StreamResponse:
        if http.path.endswith("/chat/completions") or http.path.endswith("/v1/completions"):
            self.paths.append(http.path)
        if not http.path.endswith("tokenize"):
            return await super().__call__(http)
        body = await http.json()
        if "tokens" in body:
            return as_response({"prompt": "".join(map(chr, body["tokens"]))})
        if body.get("prompt") in self.marks:
            return as_response({"tokens": [7]})
        text = body.get("prompt") or self.render(body["messages"], body["continue_final_message"])
        return as_response({"tokens": [ord(c) for c in text]})

    def render(self, messages: list[dict[str, str]], continued: bool) -> str:
        *turns, last = messages
        text = "".join(f"[{m['role']}]{m['content']}" for m in turns)
        if continued:
            return f"{text}[assistant]{self.before}{last['content']}"
        return f"{text}[{last['role']}]{last['content']}[assistant]{self.opens}"


def continue_(script: Script, truncated: Completion, **settings: Any) -> tuple[Completion, list[str]]:
    """The continued completion, and the messages of the client."""
    said: list[str] = []
    logprobs = settings.pop("logprobs", False)

    async def ask() -> Completion:
        async with serving(script) as url, client(url, max_retries=0, **settings) as teacher:
            await teacher.check(said.append)
            await teacher.check_continuing(logprobs)
            return await teacher.complete(QUESTION, SAMPLING, 1, before=truncated)

    return asyncio.run(ask()), said


def prompt(script: Script) -> str:
    return "".join(map(chr, script.asked[-1]["prompt"]))


TEXT = {"choices": [{"index": 0, "text": "2.\n</think>\n\nIt is 2.", "finish_reason": "stop"}]}
FIRST = "[user]What is 12 + 30?[assistant]"


@pytest.mark.parametrize(
    ("truncated", "opens", "before", "expected"),
    [
        (TRUNCATED, "", CLOSED, "<think>\nI count: 1, "),
        (PLAIN, "", CLOSED, "I count: 1, "),
        (OTHER, "", CLOSED, "[THINK]I count: 1, "),
        (TRUNCATED, "<think>\n", "", "I count: 1, "),
        (PLAIN, "<think>\n", "", "I count: 1, "),
    ],
)
def test_if_the_template_renders_another_text_the_prompt_is_completed(
    truncated: Completion, opens: str, before: str, expected: str
) -> None:
    script = Templated(TEXT, opens=opens, before=before)
    completion, said = continue_(
        script, truncated, extra_body={"top_k": 5, "chat_template_kwargs": {"x": True}}
    )
    assert prompt(script) == FIRST + opens + expected
    assert script.paths == ["/v1/completions"]
    asked = script.asked[-1]
    assert (asked["top_k"], asked["max_tokens"], asked["seed"]) == (5, 64, 1)
    assert not {"messages", "continue_final_message", "add_generation_prompt"} & set(asked)
    if truncated is not OTHER:
        assert (completion.reasoning, completion.response) == ("I count: 1, 2.", "It is 2.")
    assert said == []


def test_if_the_template_renders_the_same_text_the_message_is_continued() -> None:
    script = Templated(chat(content="2.</think>It is 2."))
    completion, said = continue_(script, TRUNCATED, logprobs=False)
    assert script.paths == ["/v1/chat/completions"]
    assert script.asked[-1]["messages"][-1] == {"role": "assistant", "content": "<think>\nI count: 1, "}
    assert (completion.reasoning, completion.response) == ("I count: 1, 2.", "It is 2.")
    assert said == []


def test_impossible_continuations_are_refused_before_any_request() -> None:
    for script, settings, why in (
        (Templated(TEXT, marks=("<|channel|>",)), {}, r"it marks reasoning with <\|channel\|>"),
        (Templated(TEXT, before=CLOSED), {"logprobs": True}, "generate.logprobs is set"),
        (Templated(TEXT), {"logprobs": True, "continue_by": "completions"}, "generate.logprobs are set"),
        (Script(TEXT), {"continue_by": "completions"}, "needs /tokenize"),
    ):
        with pytest.raises(UserError, match=why) as refused:
            continue_(script, TRUNCATED, **settings)
        assert len(str(refused.value).splitlines()) == 1
    assert script.asked == [] or all("prompt" not in asked for asked in script.asked)


def test_a_server_that_hides_its_template_gives_a_warning() -> None:
    script = Script((404, {}), chat(content="2.</think>It is 2."))
    _, (said,) = continue_(script, TRUNCATED)
    assert "cannot verify that it continues truncated responses faithfully" in said


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("prefix", {"content": "<think>\nI count: 1, ", "prefix": True}),
        ("reasoning_content", {"content": "", "reasoning_content": "I count: 1, ", "prefix": True}),
    ],
)
def test_continue_by_selects_the_form_of_the_continuation(way: Any, expected: dict[str, Any]) -> None:
    endpoint = Endpoint(model="fake", base_url="http://x/v1", continue_by=way)
    body = chat_body(endpoint, "fake", QUESTION, SAMPLING, 1, None, TRUNCATED)
    assert body["messages"][-1] == {"role": "assistant", **expected}
    assert "continue_final_message" not in body
    assert to_json(body)


def test_truncated_reasoning_in_unknown_marks_can_be_continued() -> None:
    assert can_continue(OTHER)
    assert not can_continue(Completion(None, "[THINK]a[/THINK]b", "length", 1, 1))


def test_the_fake_server_continues_although_its_template_closes_reasoning(
    fake_server: StartFakeServer,
) -> None:
    sure = ("--words", "40", "--correct", "1", "--malformed", "0", "--truncated", "0")
    server = fake_server("--template", *sure)

    async def ask() -> tuple[Completion, Completion]:
        async with client(server.url) as teacher:
            await teacher.check_continuing(None)
            short = SAMPLING.model_copy(update={"max_tokens": 25})
            whole = await teacher.complete(QUESTION, SAMPLING, 3)
            truncated = await teacher.complete(QUESTION, short, 3)
            return whole, await teacher.complete(QUESTION, SAMPLING, 4, before=truncated)

    whole, continued = asyncio.run(ask())
    assert (whole.reasoning, whole.response) == (continued.reasoning, continued.response)
    assert whole.completion_tokens == continued.completion_tokens

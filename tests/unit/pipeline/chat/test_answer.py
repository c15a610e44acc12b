"""What is shown of an answer while it arrives."""

import asyncio
import io

import pytest
from aiohttp import web

from pipeline.chat.answer import DIM, NORMAL, Answer, Display, request, visible
from pipeline.config.endpoints import Endpoint
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.vllm_server import Server
from pipeline.rows import Message
from tests.serving import SAMPLING, Script, chat, events, serving, stop


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(*pieces: str, out: io.StringIO | None = None) -> tuple[str, str]:
    """What `out` (default: a terminal) and stderr hold after a stream of these pieces."""
    out, err = out or Terminal(), io.StringIO()
    into = Answer(Display(out, err, {}))
    for piece in pieces:
        into.feed(events({"content": piece}, done=False).encode())
    into.end()
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_reasoning_is_dimmed_and_its_marks_are_not_shown_however_the_text_is_divided(step: int) -> None:
    text = "<think>\n2 + 3\nis 5.</think>\n\nThe answer is **5** <b>."
    out, _ = shown(*(text[i : i + step] for i in range(0, len(text), step)))
    assert out.replace(NORMAL + DIM, "") == f"{DIM}2 + 3\nis 5.{NORMAL}\n\nThe answer is **5** <b>.\n"


def test_a_mark_that_the_template_opened_ends_the_reasoning_too() -> None:
    out, _ = shown("2 + 3 ", "is 5.", "</thi", "nk>", "\nIt is 5.")
    assert out == "2 + 3 is 5.\n\nIt is 5.\n"


def test_anywhere_but_in_a_terminal_the_answer_stands_alone_on_stdout() -> None:
    assert shown("<think>2 + 3</think>", "It is 5.\n", out=io.StringIO()) == ("It is 5.\n", "2 + 3\n\n")


def test_a_model_cannot_drive_the_terminal() -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202edone"
    for out in (Terminal(), io.StringIO()):
        text, err = shown(f"<think>{hostile}</think>", hostile, out=out)
        said = (text + err).replace(DIM, "").replace(NORMAL, "")
        assert all(c.isprintable() or c == "\n" for c in said)
        assert said.count("\\x1b[2J") == 2


def test_no_colour_is_written_where_it_is_not_wanted() -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        out = Terminal()
        display = Display(out, io.StringIO(), environment)
        display.show("because", "")
        display.end("because", "so")
        assert out.getvalue() == "because\n\nso\n"


def test_what_arrived_of_a_character_or_a_mark_is_held_back() -> None:
    assert visible("It is \ufffd", "") == ("", "It is ")
    assert visible("It is <", "") == ("", "It is ")
    assert visible("It is <", "", ended=True) == ("", "It is <")
    assert visible("<thi", "") == ("", "")
    assert visible(" 5.", "two and three") == ("two and three", "5.")


async def ask(script: Script, **settings: object) -> str:
    async with serving(script) as url:
        endpoint = Endpoint.model_validate({"model": "fake", "base_url": url, **settings})
        into = Answer(Display(io.StringIO(), io.StringIO(), {}))
        message = Message(role="user", content="2 + 3?")
        done = await request(endpoint, Server((url,), "fake"), [message], SAMPLING, 1, into)
        return done.response


def test_the_answer_has_the_room_that_the_context_leaves() -> None:
    def server(count: int) -> Script:
        return Script({"count": count, "max_model_len": 100}, events(stop(content="5")))

    script = server(90)
    assert asyncio.run(ask(script)) == "5"
    assert script.asked[1]["max_tokens"] == 10
    with pytest.raises(RequestFailed, match="fills the model's context"):
        asyncio.run(ask(server(100)))
    silent = Script(404, chat(content="5"))
    assert asyncio.run(ask(silent, stream=False)) == "5"
    assert silent.asked[1]["max_tokens"] == SAMPLING.max_tokens


def test_a_refused_field_is_left_out_and_any_other_refusal_is_one_line() -> None:
    refused = (400, {"error": {"message": "seed is not supported"}})
    script = Script(404, refused, chat(content="5"))
    assert asyncio.run(ask(script)) == "5"
    assert "seed" in script.asked[1]
    assert "seed" not in script.asked[2]
    with pytest.raises(RequestFailed, match="HTTP 500: it broke"):
        asyncio.run(ask(Script(404, (500, {"error": {"message": "it\nbroke"}}))))


def test_an_answer_that_is_cut_off_is_told() -> None:
    async def cut(http: web.Request) -> web.StreamResponse:
        return web.Response(text=events({"content": "It is"}, done=False), content_type="text/event-stream")

    with pytest.raises(RequestFailed, match="cut off"):
        asyncio.run(ask(Script(404, cut)))

"""Tokens that a server did not count are unknown: neither they nor their cost are shown as 0."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.evaluate.metrics import score, summarise
from pipeline.generate.usage import UsageLog, UsageMeter
from pipeline.inference.concurrency import EndpointPool, PooledEndpoint
from pipeline.inference.response import Completion
from pipeline.inspect.format import at_least
from pipeline.inspect.status import print_document, status_of
from pipeline.rows import Message, Sampling, Trace
from tests.serving import SAMPLING, Script, client, events, serving, stop
from tests.small_run import write_run

COUNTED = Completion(None, "so", "stop", 1_000_000, 1_000_000)
UNCOUNTED = Completion(None, "so", "stop", None, None)


def meter(*got: Completion) -> UsageMeter:
    endpoint = Endpoint(model="m", base_url="http://x/v1", price_per_mtok_in=1, price_per_mtok_out=2)
    made = UsageMeter("m", endpoint, EndpointPool([PooledEndpoint("x", 1)], 1))
    for one in got:
        made.add(one)
    return made


def note(folder: Path, *got: Completion) -> str:
    async def ask() -> str:
        return UsageLog(folder, [meter(*got)]).note()

    return asyncio.run(ask())


def test_uncounted_tokens_have_no_price() -> None:
    assert meter(UNCOUNTED).usage().spend is None
    assert (meter().usage().spend, meter(COUNTED).usage().spend) == (0, 3)
    both = meter(COUNTED, UNCOUNTED).usage()
    assert (both.spend, both.uncounted) == (3, 1)


def test_tokens_of_responses_that_could_not_be_used_are_paid_too() -> None:
    ends = iter(["error", "error", "stop"])

    async def answer(http: web.Request) -> web.Response:
        counted = {"usage": {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}}
        choice = {"message": {"content": "so"}, "finish_reason": next(ends)}
        return web.json_response({"choices": [choice]} | counted)

    async def ask() -> UsageMeter:
        async with serving(answer) as url, client(url) as teacher:
            made = meter()
            made.pool = teacher.pool
            made.add(await teacher.complete([Message(role="user", content="q")], SAMPLING, 1))
            return made

    used = asyncio.run(ask()).usage()
    assert (used.prompt_tokens, used.completion_tokens, used.spend) == (3_000_000, 3_000_000, 9)


def test_a_response_that_breaks_off_before_its_counts_costs_what_arrived() -> None:
    words = [{"content": "one "}, {"content": "two "}, {"content": "three "}]
    whole = events(stop(content="so"), {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async def ask() -> UsageMeter:
        async with serving(Script(events(*words, done=False), whole)) as url, client(url) as teacher:
            made = meter()
            made.pool = teacher.pool
            made.add(await teacher.complete([Message(role="user", content="q")], SAMPLING, 1))
            return made

    used = asyncio.run(ask()).usage()
    assert (used.retries, used.prompt_tokens, used.completion_tokens) == ({"dropped": 1}, 1, 4)


def test_the_progress_note_shows_what_is_counted(tmp_path: Path) -> None:
    assert "3.00 spent" in note(tmp_path, COUNTED)
    assert "at least 3.00 spent" in note(tmp_path, COUNTED, UNCOUNTED)
    assert "tokens not counted" in (said := note(tmp_path, UNCOUNTED))
    assert "spent" not in said


def test_an_amount_with_uncounted_parts_is_a_lower_bound() -> None:
    assert (at_least("3.00", 0), at_least("3.00", 1), at_least("-", 1)) == ("3.00", "at least 3.00", "-")


@pytest.mark.parametrize(
    ("got", "shown"),
    [
        (COUNTED, "1,000,000 prompt and 1,000,000 completion tokens, 3.00 spent"),
        (UNCOUNTED, "- prompt and - completion tokens, - spent"),
    ],
    ids=["counted", "uncounted"],
)
def test_status_shows_what_a_training_s_teacher_has_read(
    got: Completion, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "small")
    (run.path / "train").mkdir()
    UsageLog(run.path / "train", [meter(got)]).save("")
    print_document(status_of(run))
    assert f"train: 0 requests, {shown}\n" in capsys.readouterr().out


def test_status_shows_what_generate_has_spent_on_all_attempts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "small")
    UsageLog(run.path / "generate", [meter(COUNTED)]).save("")
    print_document(status_of(run))
    said = "generate: 0 requests, 1,000,000 prompt and 1,000,000 completion tokens, 3.00 spent\n"
    assert said in capsys.readouterr().out


def trace(tokens: int | None, finish_reason: str = "stop") -> Trace:
    return Trace(
        id="p-0-0000", problem_id="p", sample=0, question="q", reference="7", answer_type="math", source="s",
        teacher="t", prompt="plain", prompt_hash="h", seed=1, reasoning=None, response="7",
        sampling=Sampling(temperature=1, top_p=1, max_tokens=9), finish_reason=finish_reason,
        prompt_tokens=1, completion_tokens=tokens,
    )  # fmt: skip


def test_mean_tokens_are_none_if_a_response_was_not_counted() -> None:
    for traces, tokens in (
        ([trace(4), trace(8)], 6),
        ([trace(4), trace(None)], None),
        ([trace(4), trace(None, "failed")], 4),  # no answer came
    ):
        (line,) = summarise([score("held_out", "base", "m", traces)])
        assert line.tokens == tokens

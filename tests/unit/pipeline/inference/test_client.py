from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from pipeline.errors import Stopped, UserError
from pipeline.inference.client import Client
from pipeline.inference.credentials import MAX_MESSAGE
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.response import Completion, can_continue
from pipeline.inference.retry import OVERLOADS_PER_RETRY
from pipeline.rows import Message
from tests.serving import (
    SAMPLING,
    Script,
    answered,
    as_response,
    chat,
    client,
    complete,
    events,
    serving,
    stop,
)

if TYPE_CHECKING:
    from tests.conftest import StartFakeServer

SO = chat(content="so")
SOON = {"Retry-After": "0.01"}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits the backoff to 0.05 s."""
    monkeypatch.setattr("pipeline.inference.retry.MAX_BACKOFF", 0.05)


def requests(*answers: Any, fails: type[Exception] | None = None, **settings: Any) -> int:
    """The number of requests to a server with these answers, until the client has a completion or raises."""
    script = Script(*answers)

    async def ask() -> None:
        async with serving(script) as url:
            await complete(url, **settings)

    if fails:
        with pytest.raises(fails):
            asyncio.run(ask())
    else:
        asyncio.run(ask())
    return len(script.asked)


def asked(**settings: Any) -> dict[str, Any]:
    """The body of a request under these settings."""
    script = Script(SO)

    async def ask() -> None:
        async with serving(script) as url:
            await complete(url, question="Why?", **settings)

    asyncio.run(ask())
    return script.asked[0]


@pytest.mark.parametrize("stored", ["reasoning", "response"])
def test_a_key_that_an_answer_quotes_is_not_kept(monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    monkeypatch.setenv("A_KEY", "kqzvbkey9876543210")
    script = Script(chat(content="<think>I was sent kqzvbkey9876543210</think>It is kqzvbkey9876543210."))

    async def ask() -> Completion:
        async with serving(script) as url:
            return await complete(url, api_key_env="A_KEY")

    said = getattr(asyncio.run(ask()), stored)
    assert "[key]" in said
    assert "kqzv" not in said


async def many(teacher: Client, n: int) -> list[Completion]:
    message = [Message(role="user", content="1 + 1")]
    return await asyncio.gather(*(teacher.complete(message, SAMPLING, seed) for seed in range(n)))


# ------------------------------------------------------------------------------ requests


def test_the_request_carries_what_the_recipe_says() -> None:
    assert asked() == {
        "model": "fake",
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_settings_change_the_request() -> None:
    body = asked(stream=False, token_limit="max_completion_tokens", extra_body={"top_k": 20, "seed": 9})
    assert body == {
        "model": "fake",
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_completion_tokens": 64,
        "seed": 1,
        "top_k": 20,
    }


@pytest.mark.parametrize("seed", [2**31 + 5, 5])
def test_seeds_fit_in_31_bits(seed: int) -> None:
    async def ask() -> None:
        script = Script(SO)
        async with serving(script) as url, client(url) as teacher:
            await teacher.complete([], SAMPLING, seed)
        assert script.asked[0]["seed"] == 5

    asyncio.run(ask())


# ------------------------------------------------------------------------------ retries


@pytest.mark.parametrize("fault", ["429", "500", "503", "529", "502", "dropped", "garbage"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_transient_failure_is_retried(fake_server: StartFakeServer, fault: str, stream: bool) -> None:
    server = fake_server("--faulty-attempts=1", "--retry-after=0.01", faults={fault: 1})
    assert asyncio.run(complete(server.url, stream=stream)).reasoning
    assert server.stats()["outcomes"] == {fault: 1, "200": 1}


@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_a_stalled_request_is_retried(fake_server: StartFakeServer, fault: str) -> None:
    server = fake_server("--faulty-attempts=1", faults={fault: 1})
    assert asyncio.run(complete(server.url, stall_timeout=0.5)).reasoning
    assert server.stats()["outcomes"][fault] == 1


@pytest.mark.parametrize("answer", [500, 408, 409, 999, "<html>", events({"content": "so"}, done=False)])
def test_a_request_fails_after_max_retries(answer: Any) -> None:
    answer = (answer, "", SOON) if isinstance(answer, int) else answer
    assert requests(answer, max_retries=1, fails=RequestFailed) == 2
    assert requests(answer, max_retries=0, fails=RequestFailed) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 522, 529])
def test_overload_is_retried_beyond_max_retries(status: int) -> None:
    assert requests(*[(status, "", SOON)] * 8, SO, max_retries=0) == 9


@pytest.mark.parametrize("status", [504, 524])
def test_gateway_timeouts_count_toward_max_retries(status: int) -> None:
    assert requests((status, "", SOON), max_retries=2, fails=RequestFailed) == 3


def test_a_request_too_large_for_the_account_fails_alone() -> None:
    body = {"error": {"message": "Request too large for gpt-x: Limit 10000, Requested 12000.", "code": "x"}}
    assert requests((429, body), fails=RequestFailed) == 1


def test_all_kinds_of_faults_share_max_retries() -> None:
    broken = events({"content": "so"}, done=False)
    assert requests((500, "", SOON), broken, "<html>", max_retries=2, fails=RequestFailed) == 3


@pytest.mark.parametrize("code", [429, 502, 503, 529, 500])
def test_a_response_that_breaks_off_counts_toward_max_retries(code: int) -> None:
    broken = events({"content": "We"}, {"error": {"message": "Provider disconnected", "code": code}})
    assert requests(broken, max_retries=2, fails=RequestFailed) == 3


def test_a_request_that_is_always_rejected_fails_while_others_succeed() -> None:
    asked: Counter[int] = Counter()

    async def poison(http: web.Request) -> web.Response:
        seed = (await http.json())["seed"]
        asked[seed] += 1
        return as_response((503, {"error": "overloaded"}, SOON) if seed == 0 else SO)

    async def ask(teacher: Client) -> None:
        poisoned = asyncio.create_task(teacher.complete([], SAMPLING, 0))
        while not poisoned.done():
            await teacher.complete([], SAMPLING, 1)
        with pytest.raises(RequestFailed, match="HTTP 503: overloaded"):
            await poisoned

    async def run() -> None:
        async with (
            serving(Script(poison)) as url,
            client(url, max_retries=0, unavailable_timeout=60) as teacher,
        ):
            await ask(teacher)

    asyncio.run(run())
    assert asked[0] == OVERLOADS_PER_RETRY
    assert asked[1] > OVERLOADS_PER_RETRY


@pytest.mark.parametrize("status", [429, 502, 503])
def test_after_a_success_an_unavailable_server_fails_one_request_at_a_time(status: int) -> None:
    async def ask() -> int:
        script = Script(SO, (status, "no", SOON))
        async with serving(script) as url, client(url, max_retries=1, unavailable_timeout=0.5) as teacher:
            await teacher.complete([], SAMPLING, 1)
            with pytest.raises(
                RequestFailed, match=rf"no good response for 0\.5 s; the last: HTTP {status}: no"
            ):
                await teacher.complete([], SAMPLING, 2)
            for seed in range(3, 6):  # each later request still gets its retries
                before = len(script.asked)
                with pytest.raises(RequestFailed):
                    await teacher.complete([], SAMPLING, seed)
                assert len(script.asked) - before == 2
        return len(script.asked)

    assert asyncio.run(ask()) > 3 * 2


@pytest.mark.parametrize("code", [429, 500, "overloaded", None])
def test_an_error_with_status_200_is_retried_like_its_own_status(code: Any) -> None:
    error = {"error": {"message": "no", "code": code}}
    assert requests(error, SO) == 2
    assert requests(events({"content": "s"}, error), SO) == 2


def test_a_refusal_with_status_200_is_final() -> None:
    error = {"error": {"message": "too long", "code": 400}}
    assert requests(error, fails=RequestFailed) == 1
    assert requests(events({"content": "s"}, error), fails=RequestFailed) == 1


@pytest.mark.parametrize("status", [400, 413, 418, 422])
def test_a_refused_request_fails_alone_with_the_servers_message(status: int) -> None:
    body = {"error": {"message": "the prompt\x00\x1b\n is\u202e too long"}}
    with pytest.raises(RequestFailed, match=f"^HTTP {status}: the prompt is too long$") as failed:
        answered((status, body))
    assert failed.value.refused
    assert requests((status, body), fails=RequestFailed) == 1


def test_a_request_out_of_retries_was_not_refused() -> None:
    with pytest.raises(RequestFailed) as failed:
        answered(500)
    assert not failed.value.refused


def test_a_prompt_longer_than_the_context_fails_alone(fake_server: StartFakeServer) -> None:
    server = fake_server("--too-long", "[long]")
    with pytest.raises(RequestFailed, match="HTTP 400: This model's maximum context length"):
        asyncio.run(complete(server.url, question="[long]"))
    assert server.stats()["requests"] == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no"}}, "no"),
        ({"object": "error", "message": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": [{"loc": ["n"]}]}, '{"detail":[{"loc":["n"]}]}'),
        ("<h1>no</h1>", "no"),
        ("", "no reason given"),
        (b"\xff", "\ufffd"),
        ("[" * 100_000, "[" * (MAX_MESSAGE - 3) + "..."),
    ],
)
def test_the_servers_message_is_found_in_any_form(body: Any, said: str) -> None:
    with pytest.raises(RequestFailed) as failed:
        answered((400, body))
    assert str(failed.value) == f"HTTP 400: {said}"


@pytest.mark.parametrize("after", ["0", "-5", "Wed, 21 Oct 1999 07:28:00 GMT", "nan", "soon"])
def test_no_retry_after_disables_the_backoff(after: str) -> None:
    async def ask() -> int:
        script = Script((429, "", {"Retry-After": after}))
        async with serving(script) as url:
            with pytest.raises(Stopped):
                await complete(url, unavailable_timeout=0.5)
        return len(script.asked)

    assert asyncio.run(ask()) < 60  # about 20; hundreds without a wait


def test_a_retry_after_beyond_unavailable_timeout_is_shortened_and_reported_once() -> None:
    said: list[str] = []

    async def ask() -> None:
        script = Script((429, "", {"Retry-After": "43200"}))
        async with serving(script) as url, client(url, unavailable_timeout=0.2) as teacher:
            await teacher.check(said.append)
            await many(teacher, 3)

    with pytest.raises(Stopped):
        asyncio.run(ask())
    assert said == ["a server asks to wait 43,200 s (Retry-After): retrying after 0.2 s"]


def test_retry_after_is_respected() -> None:
    async def ask() -> None:
        script = Script((429, "", {"Retry-After": "60"}), SO)
        async with serving(script) as url:
            asking = asyncio.create_task(complete(url))
            while not script.asked:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.7)  # longer than the client's first backoff
            assert len(script.asked) == 1
            assert not asking.done()
            asking.cancel()

    asyncio.run(ask())


def test_retries_are_counted_by_their_reason() -> None:
    async def ask() -> None:
        broken = events({"content": "so"}, done=False)
        script = Script((429, "", SOON), (500, "", SOON), (503, "", SOON), broken, "<html>", SO)
        async with serving(script) as url, client(url) as teacher:
            await teacher.complete([], SAMPLING, 1)
            assert teacher.pool.requests == 6
            assert teacher.pool.retries == {"429": 1, "5xx": 2, "dropped": 1, "garbage": 1}
            assert teacher.pool.in_flight == 0

    asyncio.run(ask())


# ------------------------------------------------------------------------------ a server that is gone


def test_a_server_unavailable_for_too_long_stops_the_run() -> None:
    words = r"http.*/v1: no good response for 0\.3 s; the last: "
    for retry_after in ({}, SOON, {"Retry-After": "3600"}, {"Retry-After": "9" * 9}):
        with pytest.raises(Stopped, match=words + "HTTP 429: slow down"):
            answered((429, {"error": "slow down"}, retry_after), unavailable_timeout=0.3)


def test_a_server_that_fails_everything_stops_the_run_even_if_each_request_has_retries_left() -> None:
    with pytest.raises(Stopped, match=r"no good response for 0\.3 s; the last: HTTP 500"):
        answered((500, "", {"Retry-After": "0.05"}), max_retries=1000, unavailable_timeout=0.3)


def test_an_error_about_redirects_hides_the_query_of_the_address() -> None:
    async def again(http: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(http.url)

    async def ask() -> str:
        async with serving(Script(again)) as url:
            with pytest.raises(UserError, match="3 redirects led to no response") as told:
                await complete(f"{url}?a=SECRET&b=SECRET", max_retries=0)
            return str(told.value)

    assert "SECRET" not in asyncio.run(ask())


def test_a_server_that_stays_unreachable_stops_the_run(fake_server: StartFakeServer) -> None:
    server = fake_server()
    server.stop()
    with pytest.raises(Stopped, match=f"^{server.url}: no good response for 0.3 s; the last: no response"):
        asyncio.run(complete(server.url, max_retries=0, unavailable_timeout=0.3))


def test_requests_wait_for_a_server_that_comes_back() -> None:
    async def ask() -> None:
        script = Script(SO)
        async with serving(script) as url:
            pass
        port = int(url.split(":")[2].split("/")[0])
        async with client(url, max_retries=0, unavailable_timeout=60) as teacher:
            asking = asyncio.create_task(many(teacher, 20))
            while not teacher.pool.retries["connection"]:
                await asyncio.sleep(0.01)
            async with serving(script, port=port):
                assert len(await asking) == 20
        assert len(script.asked) == 20

    asyncio.run(ask())


def test_a_rejected_request_waits_while_others_succeed() -> None:
    async def ask() -> None:
        clock = asyncio.get_running_loop().time
        busy_until = clock() + 1.5

        async def moody(http: web.Request) -> web.Response:
            if (await http.json())["seed"] == 0 and clock() < busy_until:
                return web.Response(status=429, headers=SOON)
            return web.Response(text=json.dumps(SO))

        async with (
            serving(Script(moody)) as url,
            client(url, max_retries=50, unavailable_timeout=1) as teacher,
        ):
            refused = asyncio.create_task(teacher.complete([], SAMPLING, 0))
            while not refused.done():
                await teacher.complete([], SAMPLING, 1)
                await asyncio.sleep(0.01)
            assert (await refused).response == "so"

    asyncio.run(ask())


# ------------------------------------------------------------------------------ what stops the run

QUOTA = "You exceeded your current quota, please check your plan and billing details."
NO_MONEY = [
    (402, {"error": {"message": "no"}}),
    (402, {"error": {"message": "Insufficient Balance"}}),
    (429, {"error": {"message": "no", "code": "insufficient_quota"}}),
    (429, {"error": {"message": "no", "type": "insufficient_quota", "code": None}}),
    (429, {"error": {"message": QUOTA, "status": "RESOURCE_EXHAUSTED", "code": 429}}),
    (429, [{"error": {"message": QUOTA, "status": "RESOURCE_EXHAUSTED", "code": 429}}]),
    (429, {"error": {"message": "Your credit balance is too low to use it.", "type": "invalid_request"}}),
    (400, {"type": "error", "error": {"message": "Your credit balance is too low: see Plans & Billing."}}),
    (400, {"error": {"message": "make sure your account is in good standing", "code": "Arrearage"}}),
    (403, {"error": {"message": "no", "type": "billing_error"}}),
    (429, {"code": "exceeded_current_quota_error", "message": "no"}),
    (429, {"error": "insufficient_balance"}),
    (200, events({"content": "s"}, {"error": {"message": QUOTA, "code": 429}})),
]
FATAL = [
    (401, {"error": {"message": "no"}}),
    (403, {"error": {"message": "not for you"}}),
    (404, {"error": {"message": "no"}}),
    (400, {"error": {"message": "Model Not Exist"}}),
    (400, {"error": {"message": "Invalid model: fake"}}),
    (400, {"error": {"message": "no", "code": "model_not_found"}}),
]


@pytest.mark.parametrize(("status", "body"), NO_MONEY)
def test_an_account_without_money_stops_the_run_whichever_field_says_so(status: int, body: Any) -> None:
    async def ask(*answers: Any, **asked: Any) -> None:
        script = Script(*answers)
        async with serving(script) as url, client(url) as teacher:
            for seed in range(len(answers) - 1):
                await teacher.complete([], SAMPLING, seed)
            with pytest.raises(
                UserError, match=r"^http.*/v1: cannot use model 'fake' .*: HTTP \d+: .*"
            ) as told:
                await teacher.complete([], SAMPLING, 9, **asked)
            assert len(str(told.value).splitlines()) == 1
        assert len(script.asked) == len(answers)

    asyncio.run(ask((status, body)))
    asyncio.run(ask(SO, (status, body)))  # whatever it did before
    asyncio.run(ask(SO, (status, body), before=TRUNCATED))


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Rate limit reached on tokens per min (TPM). Please try again in 6ms.", "type": "tokens"},
        {"message": "Limit 3 / min. Add a card at https://host/account/billing for more.", "code": "rate"},
        {"message": f"{QUOTA} Please retry in 37.5s.", "status": "RESOURCE_EXHAUSTED"},
        {"message": QUOTA, "details": [{"@type": "RetryInfo", "retryDelay": "37s"}]},
        {"message": "Resource has been exhausted (e.g. check quota).", "status": "RESOURCE_EXHAUSTED"},
    ],
)
def test_a_temporary_limit_is_waited_out(error: Any) -> None:
    assert requests((429, {"error": error}, SOON), SO, max_retries=0) == 2


@pytest.mark.parametrize(("status", "body"), FATAL)
def test_an_error_that_every_request_would_get_stops_the_run(status: int, body: Any) -> None:
    with pytest.raises(UserError, match=f"^http.*/v1: cannot use model 'fake' .*: HTTP {status}"):
        answered((status, body))
    assert requests((status, body), fails=UserError) == 1


@pytest.mark.parametrize(("status", "body"), FATAL)
def test_after_a_success_such_an_error_fails_its_request_alone(status: int, body: Any) -> None:
    async def ask() -> None:
        script = Script(SO, (status, body))
        async with serving(script) as url, client(url) as teacher:
            await teacher.complete([], SAMPLING, 1)
            with pytest.raises(RequestFailed, match=f"HTTP {status}"):
                await teacher.complete([], SAMPLING, 2)
        assert len(script.asked) == 2

    asyncio.run(ask())


def test_in_a_resumed_run_a_403_fails_its_request_and_a_401_stops_the_run() -> None:
    async def ask(status: int) -> None:
        async with serving(Script((status, "no"))) as url, client(url, answered=True) as teacher:
            await teacher.complete([], SAMPLING, 1)

    with pytest.raises(RequestFailed, match="HTTP 403"):
        asyncio.run(ask(403))
    with pytest.raises(UserError, match="HTTP 401"):
        asyncio.run(ask(401))


# ------------------------------------------------------------------------------ several endpoints


def test_the_load_is_spread_over_all_endpoints() -> None:
    async def ask() -> None:
        async def hang(http: web.Request) -> web.Response:
            await asyncio.Event().wait()
            return web.Response()

        a, b = Script(hang), Script(hang)
        async with serving(a) as first, serving(b) as second, client(first, second) as teacher:
            asking = asyncio.create_task(many(teacher, 10))
            while a.in_flight + b.in_flight < 10:
                await asyncio.sleep(0.01)
            assert (a.in_flight, b.in_flight) == (5, 5)
            asking.cancel()

    asyncio.run(ask())


@pytest.mark.parametrize("fault", ["gone", 401, 404])
def test_an_unusable_endpoint_is_skipped_while_others_answer(fault: Any) -> None:
    async def ask() -> None:
        bad, good = Script(fault), Script(SO)
        said: list[str] = []
        async with serving(bad) as first, serving(good) as second:
            url = "http://127.0.0.1:9/v1" if fault == "gone" else first
            async with client(url, second, max_retries=0) as teacher:
                if fault != "gone":
                    await teacher.check(said.append)
                assert len(await many(teacher, 30)) == 30
        assert len(good.asked) == 30
        assert len(bad.asked) <= 8
        assert len(said) == (fault != "gone")

    asyncio.run(ask())


def test_the_run_stops_when_every_endpoint_refuses() -> None:
    async def ask() -> None:
        a, b = Script(401), Script(404)
        async with serving(a) as first, serving(b) as second:
            with pytest.raises(UserError, match="cannot use model 'fake'"):
                await complete(first, second)
        assert len(a.asked) == len(b.asked) == 1

    asyncio.run(ask())


# ------------------------------------------------------------------------------ concurrency


def test_requests_in_flight_never_exceed_the_concurrency(fake_server: StartFakeServer) -> None:
    server = fake_server("--latency=0.02")

    async def ask() -> None:
        async with client(server.url, concurrency=20) as teacher:
            await many(teacher, 200)
            assert teacher.pool.limit == 20

    asyncio.run(ask())
    assert server.stats()["most_in_flight"] == 20


def test_the_concurrency_limit_adapts_to_the_server(fake_server: StartFakeServer) -> None:
    server = fake_server("--latency=0.02", "--slots=10", "--retry-after=0.01")

    async def ask() -> None:
        async with client(server.url, concurrency=256) as teacher:
            await many(teacher, 300)
            assert teacher.pool.limit < 30

    asyncio.run(ask())
    outcomes = server.stats()["outcomes"]
    assert outcomes["200"] == 300
    assert outcomes["429"] < 300


def test_requests_per_minute_are_limited() -> None:
    async def ask() -> None:
        script = Script(SO)
        async with serving(script) as url, client(url, requests_per_minute=30) as teacher:
            asking = asyncio.create_task(many(teacher, 10))
            while not script.asked:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            assert len(script.asked) == 1
            asking.cancel()

    asyncio.run(ask())


def test_tokens_per_minute_are_limited() -> None:
    async def ask() -> None:
        script = Script(SO | {"usage": {"prompt_tokens": 50, "completion_tokens": 50}})
        async with serving(script) as url, client(url, tokens_per_minute=60) as teacher:
            await teacher.complete([], SAMPLING, 1)
            second = asyncio.create_task(teacher.complete([], SAMPLING, 2))
            await asyncio.sleep(0.5)
            assert len(script.asked) == 1
            second.cancel()

    asyncio.run(ask())


# ------------------------------------------------------------------------------ continuation

TRUNCATED = Completion("I count: 1, ", "", "length", 10, 4, thinking=True)
PLAIN = Completion(None, "I count: 1, ", "length", 10, 4)


def test_a_continuation_sends_the_truncated_message() -> None:
    body = asked(before=TRUNCATED)
    assert body["messages"][1] == {"role": "assistant", "content": "<think>\nI count: 1, "}
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
    body = asked(before=PLAIN, continue_by="prefix")
    assert body["messages"][1] == {"role": "assistant", "content": "I count: 1, ", "prefix": True}
    assert "continue_final_message" not in body


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refused_continuation_fails_alone(status: int) -> None:
    with pytest.raises(RequestFailed, match=f"HTTP {status}") as failed:
        answered((status, {"error": "no"}), before=TRUNCATED)
    assert failed.value.refused == (status in (400, 422))  # a key or an address can be corrected


def test_a_continuation_is_retried_after_overload() -> None:
    assert requests((429, "", SOON), events(stop()), before=TRUNCATED, max_retries=0) == 2


@pytest.mark.parametrize("way", ["inline", "reasoning_content", "reasoning"])
@pytest.mark.parametrize("by", ["continue_final_message", "prefix"])
def test_continued_reasoning_equals_untruncated_reasoning(
    fake_server: StartFakeServer, way: str, by: str
) -> None:
    server = fake_server("--reasoning", way, "--words=100", "--correct=1", "--malformed=0", "--truncated=0")

    async def ask() -> None:
        long = SAMPLING.model_copy(update={"max_tokens": 1000})
        message = [Message(role="user", content="What is 12 + 30?")]
        async with client(server.url, continue_by=by) as teacher:
            whole = await teacher.complete(message, long, 1, logprobs=True)
            truncated = await teacher.complete(message, SAMPLING, 1, logprobs=True)
            assert can_continue(truncated)
            joined = await teacher.complete(message, SAMPLING, 1, logprobs=True, before=truncated)
        assert (joined.reasoning, joined.response) == (whole.reasoning, whole.response)
        assert joined.completion_tokens == whole.completion_tokens
        assert joined.logprobs
        assert whole.logprobs
        assert joined.logprobs.reasoning_tokens == whole.logprobs.reasoning_tokens
        assert len(joined.logprobs.logprobs) == len(whole.logprobs.logprobs)

    asyncio.run(ask())


def test_a_server_without_a_list_of_models_is_used() -> None:
    async def handler(http: web.Request) -> web.StreamResponse:
        return web.Response(status=404) if http.path.endswith("/models") else as_response(SO)

    async def ask() -> str:
        async with serving(handler) as url, client(url) as teacher:
            await teacher.check()
            return (await teacher.complete([Message(role="user", content="?")], SAMPLING, 1)).response

    assert asyncio.run(ask())


def test_the_query_of_a_base_url_follows_the_path() -> None:
    seen: list[str] = []

    async def handler(http: web.Request) -> web.StreamResponse:
        seen.append(str(http.rel_url))
        return as_response(SO)

    async def ask() -> None:
        async with serving(handler) as url:
            await complete(f"{url}?api-version=3")

    asyncio.run(ask())
    assert seen == ["/v1/chat/completions?api-version=3"]


def test_an_incomplete_list_of_models_is_reported_in_one_line() -> None:
    async def handler(http: web.Request) -> web.StreamResponse:
        half = web.StreamResponse(headers={"Content-Length": "1000"})
        await half.prepare(http)
        await half.write(b'{"data": [')
        assert http.transport
        http.transport.close()
        return half

    async def ask() -> None:
        async with serving(handler) as url, client(url, max_retries=0) as teacher:
            await teacher.check()

    with pytest.raises(UserError, match="the response was cut off"):
        asyncio.run(ask())

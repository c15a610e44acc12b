"""generate through OpenAI's Batch API: the same rows as without, once paid whatever happens."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, sealed, start, write_recipe

BATCH = ("teacher.batch=true",)
QUICK = ("--batch-seconds", "0.5")
ALL = PROBLEMS * SAMPLES


def ingested(runs: Path, recipe: Path) -> Path:
    run_stages(runs, recipe, "ingest")
    return runs


def generate(runs: Path, recipe: Path, *words: str, code: int = 0) -> str:
    done = retort(runs, "generate", str(recipe), *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def events(runs: Path) -> list[dict[str, object]]:
    """The lines of the ledger, as far as they are written."""
    paths = sorted(runs.glob("test/batches/*/*/*.jsonl"))  # the processes in their order
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def batches(server: FakeServer) -> int:
    return int(server.stats()["batches"])


def assert_paid_once(server: FakeServer, requests: int = ALL) -> None:
    answered = server.stats()["answered"]
    assert len(answered) == requests
    assert set(answered.values()) == {1}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--errors", "0.2", "--reasoning", "reasoning_content"), ("generate.logprobs=true",)),
        (("--words", "40", "--truncated", "0.2"), ("generate.max_tokens=30", "generate.max_continuations=2")),
        (("--spread", "--correct", "0.5"), ("generate.target_kept=1", "generate.max_samples=3")),
    ],
)
def test_batches_give_the_same_bytes_as_single_requests(
    tmp_path: Path, fake_server: StartFakeServer, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    server = fake_server(*flags, *QUICK)
    recipe = write_recipe(tmp_path, server.url, 20)
    if "target_kept" in words[0]:
        recipe.write_text(recipe.read_text().replace(f"samples = {SAMPLES}\n", ""))
    single, batched = (ingested(tmp_path / name, recipe) for name in ("single", "batched"))
    run_stages(single, recipe, "generate", settings=words)
    assert "test/batches" not in {str(path) for path in single.rglob("*")}
    generate(batched, recipe, *words, *BATCH)
    assert sealed(batched / "test/generate") == sealed(single / "test/generate") != {}
    assert list(batched.rglob("*.results")) == []  # collected: the rows have them


@pytest.mark.parametrize(
    ("faults", "seen"),
    [
        (("before",), "requests"),  # uploaded, not created
        (("after",), "requests"),  # created, but the answer never came
        ((), "batch"),  # running
        ((), "status"),  # ended, collected in part at most
    ],
)
def test_a_killed_command_finds_its_batches_again(
    tmp_path: Path, fake_server: StartFakeServer, faults: tuple[str, ...], seen: str
) -> None:
    server = fake_server(*QUICK, "--batch-faults", *faults)
    recipe = write_recipe(tmp_path, server.url)
    runs = ingested(tmp_path, recipe)
    process = start(runs, "generate", str(recipe), *BATCH)
    while not any(seen in event for event in events(runs)):
        assert process.poll() is None
        time.sleep(0.01)
    if faults:
        time.sleep(1)  # until the call that is never answered has arrived
    process.send_signal(signal.SIGKILL)
    process.communicate()
    generate(runs, recipe, *BATCH)
    assert batches(server) == 1
    assert_paid_once(server)


def test_two_parts_share_the_batch_of_a_killed_command(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server(*QUICK)
    recipe = write_recipe(tmp_path, server.url)
    runs = ingested(tmp_path, recipe)
    process = start(runs, "generate", str(recipe), *BATCH)
    while not any("batch" in event for event in events(runs)):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for part in ("0/2", "1/2"):
        generate(runs, recipe, *BATCH, f"--part={part}")
    generate(runs, recipe, *BATCH)
    assert batches(server) == 1
    assert_paid_once(server)
    assert list(runs.rglob("*.results")) == []


def test_another_command_sends_only_what_no_batch_holds(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server("--batch-seconds", "4")
    recipe = write_recipe(tmp_path, server.url)
    runs = ingested(tmp_path, recipe)
    process = start(runs, "generate", str(recipe), *BATCH, "generate.samples=2")
    while not any("batch" in event for event in events(runs)):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "still running" in said
    assert "/batches/batch_000000/cancel" in said
    generate(runs, recipe, *BATCH)  # with four samples: two are in the first batch
    assert batches(server) == 2
    assert_paid_once(server)


def test_faults_of_batches_cost_no_request_twice(tmp_path: Path, fake_server: StartFakeServer) -> None:
    """Creation that fails, or that seems to fail."""
    server = fake_server(*QUICK, "--batch-faults", "500", "created", "429")
    recipe = write_recipe(tmp_path, server.url)
    generate(ingested(tmp_path, recipe), recipe, *BATCH, "teacher.batch_requests=60")
    assert_paid_once(server)


def test_a_batch_that_is_too_much_waits_for_another_one(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server("--batch-seconds", "3", "--batch-faults", "", "too_much")
    recipe = write_recipe(tmp_path, server.url)
    said = generate(ingested(tmp_path, recipe), recipe, *BATCH, "teacher.batch_requests=60")
    assert "too much at once" in said
    assert_paid_once(server)


@pytest.mark.parametrize("fault", ["expired", "missing"])
def test_requests_without_a_result_go_into_the_next_batch(
    tmp_path: Path, fake_server: StartFakeServer, fault: str
) -> None:
    server = fake_server(*QUICK, "--batch-faults", fault)
    recipe = write_recipe(tmp_path, server.url)
    generate(runs := ingested(tmp_path, recipe), recipe, *BATCH)
    assert batches(server) == 2
    requests = [len(event["requests"]) for event in events(runs) if "requests" in event]  # type: ignore[arg-type]
    assert requests == [ALL, ALL // 2]


def test_lines_that_answer_nothing_are_counted_and_ignored(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server(*QUICK, "--batch-faults", "strange")
    recipe = write_recipe(tmp_path, server.url)
    said = generate(ingested(tmp_path, recipe), recipe, *BATCH)
    assert (
        "1 lines ignored: answer no request of it; 2 lines ignored: repeated; 1 lines ignored: unread" in said
    )
    assert_paid_once(server)


def test_a_refused_batch_stops_the_stage(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server(*QUICK, "--batch-faults", "failed", "too_much")
    recipe = write_recipe(tmp_path, server.url)
    runs = ingested(tmp_path, recipe)
    assert "was refused: played failed" in generate(runs, recipe, *BATCH, code=3)
    assert "set batch_requests lower" in generate(runs, recipe, *BATCH, code=3)
    generate(runs, recipe, *BATCH)
    assert_paid_once(server)


def test_a_cancelled_batch_keeps_what_it_answered(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server("--batch-seconds", "60")
    recipe = write_recipe(tmp_path, server.url)
    runs = ingested(tmp_path, recipe)
    process = start(runs, "generate", str(recipe), *BATCH)
    while not any("batch" in event for event in events(runs)):
        time.sleep(0.05)
    cancel = f"{server.url}/batches/batch_000000/cancel"
    subprocess.run(["curl", "-s", "-X", "POST", cancel], check=True, capture_output=True)
    _, said = process.communicate()
    assert process.returncode == 3
    assert "batch_000000 was cancelled; the same command asks for the rest" in said
    second = start(runs, "generate", str(recipe), *BATCH)
    while len([event for event in events(runs) if "batch" in event]) < 2:
        assert second.poll() is None
        time.sleep(0.05)
    second.send_signal(signal.SIGINT)
    second.communicate()
    requests = [len(event["requests"]) for event in events(runs) if "requests" in event]  # type: ignore[arg-type]
    assert requests == [ALL, ALL // 2]


def test_a_limit_is_kept_before_any_result_is_known(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server(*QUICK)
    recipe = write_recipe(tmp_path, server.url)
    runs = ingested(tmp_path, recipe)
    words = ("generate.max_tokens=1000", "generate.max_tokens_total=3000")
    assert "generate.max_tokens_total is reached" in generate(runs, recipe, *BATCH, *words, code=3)
    tokens = server.stats()["tokens"]
    assert 3000 <= sum(tokens.values()) < 3500
    assert batches(server) > 1  # the first was sized by max_tokens, the others by what was seen


def test_a_server_without_batches_is_refused_before_anything_is_sent(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--no-batches")
    recipe = write_recipe(tmp_path, server.url)
    said = generate(ingested(tmp_path, recipe), recipe, *BATCH, code=2)
    assert "HTTP 404" in said
    assert "remove batch = true" in said

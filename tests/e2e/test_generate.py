"""The generate stage with the fake server: adaptive sampling, continuation, teachers, log-probs, cost."""

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import open_run
from pipeline.engine.store import Output
from pipeline.generate import usage
from pipeline.inspect.costs import costs
from pipeline.rows import Trace
from tests.conftest import StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, sealed, start, write_recipe

ADAPTIVE = ("generate.target_kept=2", "generate.max_samples=8")


def generate(runs: Path, recipe: Path, *words: str, code: int = 0) -> str:
    """Runs ingest and generate. Returns stderr."""
    run_stages(runs, recipe, "ingest")
    done = retort(runs, "generate", str(recipe), *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def traces(runs: Path) -> list[Trace]:
    return list(open_run(runs / "test").rows("generate"))


def adaptive_recipe(tmp_path: Path, url: str) -> Path:
    recipe = write_recipe(tmp_path, url)
    recipe.write_text(recipe.read_text().replace(f"samples = {SAMPLES}\n", ""))
    return recipe


def test_a_problem_stops_once_enough_of_its_traces_are_kept(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--spread", "--correct", "0.5")
    generate(tmp_path, adaptive_recipe(tmp_path, server.url), *ADAPTIVE)
    by_problem: dict[str, list[str]] = {}
    for trace in traces(tmp_path):
        by_problem.setdefault(trace.problem_id, []).append(trace.outcome)
    assert len(by_problem) == PROBLEMS
    for outcomes in by_problem.values():
        kept = outcomes.count("kept")
        assert (kept == 2 and outcomes[-1] == "kept") or (kept < 2 and len(outcomes) == 8)
    samples = sum(map(len, by_problem.values()))
    assert server.stats()["requests"] == samples < 8 * PROBLEMS


def test_a_killed_adaptive_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    rng = random.Random(5)
    server = fake_server("--spread", "--latency", "0.05")
    recipe = adaptive_recipe(tmp_path, server.url)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    generate(whole, recipe, *ADAPTIVE)
    run_stages(killed, recipe, "ingest")
    output = Output(killed / "test" / "generate", Trace)
    for _ in range(4):
        process = start(
            killed, "generate", str(recipe), *ADAPTIVE, f"generate.concurrency={rng.choice([2, 9])}"
        )
        rows = output.counts().rows + rng.randint(3, 15)
        while output.counts().rows < rows and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    generate(killed, recipe, *ADAPTIVE)
    assert sealed(output.folder) == sealed(whole / "test" / "generate")


def test_truncated_reasoning_is_continued_and_its_tokens_add_up(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    whole = fake_server("--words", "60", "--correct", "1", "--malformed", "0", "--truncated", "0")
    recipe = write_recipe(tmp_path, whole.url)
    generate(tmp_path / "whole", recipe)
    generate(tmp_path / "truncated", recipe, "generate.max_tokens=25", "generate.max_continuations=5")
    for one, other in zip(traces(tmp_path / "whole"), traces(tmp_path / "truncated"), strict=True):
        assert other.continuations >= 2
        assert (one.reasoning, one.response, one.finish_reason) == (
            other.reasoning,
            other.response,
            other.finish_reason,
        )
        assert one.completion_tokens == other.completion_tokens
    generate(tmp_path / "once", recipe, "generate.max_tokens=25", "generate.max_continuations=1")
    assert {(t.finish_reason, t.continuations) for t in traces(tmp_path / "once")} == {("length", 1)}


def test_a_trace_stores_only_settings_that_were_sent(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server("--refuse", "seed", "--refuse", "stream_options")
    recipe = write_recipe(tmp_path, server.url)
    generate(tmp_path / "found", recipe)
    generate(tmp_path / "known", recipe, "teacher.omit=['seed', 'top_p']")
    for name, top_p, unsent in (("found", 0.95, ["seed"]), ("known", None, ["seed", "top_p"])):
        sampled = traces(tmp_path / name)
        assert len(sampled) == PROBLEMS * SAMPLES
        assert {(t.seed, t.sampling.temperature, t.sampling.top_p) for t in sampled} == {(None, 0.6, top_p)}
        manifest = Output(tmp_path / name / "test" / "generate", Trace).manifest()
        assert manifest
        assert manifest.report["not_sent"] == {"fake": unsent}
        settings = manifest.settings["teachers"][0]
        assert settings.get("omit") == (unsent if name == "known" else None)


def test_reasoning_that_cannot_be_continued_stays_truncated_with_an_error(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--words", "60", "--no-continue")
    recipe = write_recipe(tmp_path, server.url)
    generate(tmp_path, recipe, "generate.max_tokens=25", "generate.max_continuations=5")
    truncated = [t for t in traces(tmp_path) if t.finish_reason == "length"]
    assert truncated
    assert all(t.error and t.error.startswith("could not be continued: HTTP 400") for t in truncated)
    assert all(t.reasoning and not t.continuations for t in truncated)


def test_several_teachers_share_the_problems_or_sample_all_and_traces_name_theirs(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    first, second = fake_server(), fake_server("--seed", "1")
    recipe = write_recipe(tmp_path, first.url)
    one = f'[[teacher]]\nmodel = "fake"\nbase_url = "{first.url}"\n'
    two = f'[[teacher]]\nmodel = "fake"\nname = "other"\nbase_url = "{second.url}"\n'
    plain = recipe.read_text().replace(f'[teacher]\nmodel = "fake"\nbase_url = "{first.url}"\n', one + two)
    recipe.write_text(plain)
    generate(tmp_path / "all", recipe)
    assert Counter(t.teacher for t in traces(tmp_path / "all")) == {
        "fake": PROBLEMS * SAMPLES,
        "other": PROBLEMS * SAMPLES,
    }
    generate(tmp_path / "shared", recipe, "teacher.0.share=3", "teacher.1.share=1")
    shared = traces(tmp_path / "shared")
    teachers: dict[str, set[str]] = {}
    for trace in shared:
        teachers.setdefault(trace.problem_id, set()).add(trace.teacher)
    assert all(len(names) == 1 for names in teachers.values())
    split = Counter(t.teacher for t in shared)
    assert split.total() == PROBLEMS * SAMPLES
    assert split["fake"] > split["other"] > 0
    assert (
        retort(
            tmp_path / "shared", "filter", str(recipe), "teacher.0.share=3", "teacher.1.share=1"
        ).returncode
        == 0
    )


def test_several_endpoints_share_the_load_and_a_dead_one_is_skipped(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    first, second = fake_server("--latency", "0.05"), fake_server("--latency", "0.05")
    recipe = write_recipe(tmp_path, first.url)
    urls = f'teacher.base_url=["{first.url}", "{second.url}", "http://127.0.0.1:9/v1"]'
    run_stages(tmp_path, recipe, "ingest")
    process = start(tmp_path, "generate", str(recipe), urls)
    while second.stats()["requests"] < 20 and process.poll() is None:
        time.sleep(0.01)
    spread = (first.stats()["requests"], second.stats()["requests"])
    second.stop()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "http://127.0.0.1:9/v1 is in cooldown" in err
    assert min(spread) > max(spread) / 3
    assert len(traces(tmp_path)) == PROBLEMS * SAMPLES


def test_a_server_that_stays_unreachable_stops_the_run_and_nothing_is_lost(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--latency", "0.2")
    recipe = write_recipe(tmp_path, server.url)
    run_stages(tmp_path, recipe, "ingest")
    process = start(
        tmp_path, "generate", str(recipe), "generate.concurrency=4", "teacher.unavailable_timeout=2"
    )
    while server.stats()["requests"] < 10:
        time.sleep(0.01)
    server.stop()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "no good response for 2 s" in err
    assert Output(tmp_path / "test" / "generate", Trace).counts().rows >= 4


def test_log_probabilities_are_stored_in_the_row_in_few_bytes(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--words", "200", "--malformed", "0", "--truncated", "0")
    generate(tmp_path, write_recipe(tmp_path, server.url), "generate.logprobs=true")
    rows = traces(tmp_path)
    for row in rows:
        held = row.logprobs
        assert held
        assert row.completion_tokens
        n = len(held.logprobs)
        assert n >= row.completion_tokens - 2
        assert 0 < held.reasoning_tokens < n
        assert row.reasoning_logprob
        assert row.response_logprob
        mean = sum(held.logprobs[: held.reasoning_tokens]) / held.reasoning_tokens
        assert abs(mean - row.reasoning_logprob) < 1e-6
    tokens = sum(len(row.logprobs.logprobs) for row in rows if row.logprobs)
    size = 0
    for path in (tmp_path / "test" / "generate").glob("*.parquet"):
        meta = pq.read_metadata(path)
        for group in range(meta.num_row_groups):
            columns = (meta.row_group(group).column(i) for i in range(meta.num_columns))
            size += sum(c.total_uncompressed_size for c in columns if c.path_in_schema.startswith("logprobs"))
    assert size / tokens < 12


def test_status_shows_the_cost_of_a_run_during_and_after_it(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--latency", "0.1")
    recipe = write_recipe(tmp_path, server.url)
    prices = ("teacher.price_per_mtok_in=1.0", "teacher.price_per_mtok_out=5.0")
    run_stages(tmp_path, recipe, "ingest")
    process = start(tmp_path, "generate", str(recipe), *prices, "generate.concurrency=3")
    folder = tmp_path / "test" / "generate"
    while not usage.read_attempts(folder) and process.poll() is None:
        time.sleep(0.05)
    shown = retort(tmp_path, "status", "test").stdout
    assert "spent" in shown
    assert "tokens/s" in shown
    process.communicate(timeout=120)
    assert retort(tmp_path, "filter", str(recipe), *prices).returncode == 0
    (cost,) = costs(open_run(tmp_path / "test"))
    rows = traces(tmp_path)
    used = sum(t.prompt_tokens or 0 for t in rows), sum(t.completion_tokens or 0 for t in rows)
    assert (cost.prompt_tokens, cost.completion_tokens) == used
    assert cost.spend == (used[0] * 1.0 + used[1] * 5.0) / 1e6
    assert cost.kept == sum(t.outcome == "kept" for t in open_run(tmp_path / "test").rows("filter"))
    (last,) = usage.read_attempts(folder)
    assert last.endpoints[0].requests == PROBLEMS * SAMPLES
    assert json.loads(next(folder.glob("usage.*.json")).read_text())


def test_a_limit_stops_the_stage_and_a_higher_one_continues_it(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server()
    recipe, prices = write_recipe(tmp_path, server.url), ["teacher.price_per_mtok_in=1.0"]
    said = generate(tmp_path, recipe, "generate.max_cost=1", *prices, code=2)
    assert "generate.max_cost needs the prices of fake" in said
    prices.append("teacher.price_per_mtok_out=1e6")  # one a token
    limit = "generate.max_cost=1000"
    said = generate(tmp_path, recipe, limit, *prices, "generate.concurrency=4", code=3)
    assert "generate.max_cost is reached" in said
    assert "raise the limit and run the same command" in said
    asked = server.stats()["requests"]
    assert 0 < asked < PROBLEMS * SAMPLES / 2
    assert asked == Output(tmp_path / "test" / "generate", Trace).counts().rows
    (line,) = (line for line in status(tmp_path).splitlines() if "max_cost" in line)
    used = float(line.split()[1].replace(",", ""))
    assert line.endswith("of 1,000 used")
    assert 1000 <= used < 1000 + 4 * 200
    generate(tmp_path, recipe, limit, *prices, code=3)
    assert server.stats()["requests"] == asked
    generate(tmp_path, recipe, "generate.max_tokens_total=10_000_000")
    assert server.stats()["requests"] == PROBLEMS * SAMPLES


def test_a_limit_is_refused_if_the_server_counts_no_tokens(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--no-usage")
    said = generate(tmp_path, write_recipe(tmp_path, server.url), "generate.max_tokens_total=99", code=3)
    assert "the server reports no token counts" in said
    assert server.stats()["requests"] <= 2 * 16


def test_uncounted_tokens_are_unknown_and_not_0(tmp_path: Path, fake_server: StartFakeServer) -> None:
    recipe = write_recipe(tmp_path, fake_server("--no-usage").url)
    generate(tmp_path, recipe, "teacher.price_per_mtok_in=1.0", "teacher.price_per_mtok_out=5.0")
    (cost,) = costs(open_run(tmp_path / "test"))
    assert cost.uncounted == cost.traces == PROBLEMS * SAMPLES
    assert (cost.prompt_tokens, cost.completion_tokens, cost.spend, cost.per_kept) == (None,) * 4
    (line,) = [row.split() for row in status(tmp_path).splitlines() if row.split()[:1] == ["fake"]]
    assert line[2:] == [str(PROBLEMS * SAMPLES), "-", "-", "-", "-", "-"]
    (account,) = usage.read_attempts(tmp_path / "test" / "generate")[0].endpoints
    assert (account.uncounted, account.spend) == (PROBLEMS * SAMPLES, None)


def status(runs: Path) -> str:
    return retort(runs, "status", "test").stdout


def test_with_many_faults_every_row_is_stored_once(tmp_path: Path, fake_server: StartFakeServer) -> None:
    faults = {
        "429": 0.1,
        "500": 0.1,
        "503": 0.05,
        "dropped": 0.1,
        "garbage": 0.05,
        "stall": 0.05,
        "hang": 0.05,
    }
    server = fake_server("--retry-after", "0.1", faults=faults)
    recipe = write_recipe(tmp_path, server.url)
    generate(tmp_path, recipe, "teacher.stall_timeout=2", "teacher.max_retries=12")
    rows = traces(tmp_path)
    assert len({t.id for t in rows}) == len(rows) == PROBLEMS * SAMPLES
    assert {t.error for t in rows} == {None}
    assert set(server.stats()["answered"].values()) == {1}

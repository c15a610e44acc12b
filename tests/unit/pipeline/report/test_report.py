"""The report: its numbers add up, and text of a model has no effect in it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.engine.query import Part
from pipeline.engine.shard import Shard
from pipeline.inspect.format import clip
from pipeline.inspect.table import RowTable
from pipeline.model_rows import Score, Step
from pipeline.report import charts, curves, evaluation, page, sample
from pipeline.report.tally import BANDS, band, bins, hits, quantiles, tally
from pipeline.rows import Sampling, Trace, Verdict

HOSTILE = (
    "</script><img src=x onerror=alert(1)><!--<script>\u2028\x1b[31m ${alert(1)} {{ 7 * 7 }} & "
    "\\( \\frac{1}{2} \\)"
)


def trace(problem: str, number: int, correct: str | None, **fields: object) -> Trace:
    reason = "" if correct == "passed" else "incorrect"
    said = {"filter": "correct", "version": 1, "outcome": correct, "reason": reason}
    outcome = {"passed": "kept", "failed": "rejected", "undecided": "undecided", None: "unfiltered"}[correct]
    return Trace.model_validate(
        {
            "id": f"{problem}-0-{number:04d}",
            "problem_id": problem,
            "question": "What is 1 + 1?",
            "reference": "2",
            "answer_type": "math",
            "source": "sums",
            "sample": number,
            "teacher": "t",
            "prompt": "plain",
            "prompt_hash": "0",
            "sampling": Sampling(temperature=1, top_p=1, max_tokens=9),
            "seed": 0,
            "reasoning": "1 + 1 = 2",
            "response": "2",
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "completion_tokens": 10,
            "verdicts": (said,) if correct else (),
            "outcome": outcome,
            "reason": "correct: incorrect" if correct in ("failed", "undecided") else "",
        }
        | fields
    )


def written(folder: Path, traces: Sequence[Trace]) -> RowTable[Trace]:
    shard = Shard(folder, "shard-00000", Trace, {})
    shard.write(row.model_dump() for row in traces)
    return RowTable(Trace, [Part(shard)])


def score(problem: str, role: str, correct: int, samples: int = 4) -> Score:
    return Score(
        id=f"held_out/{role}/{problem}",
        set="held_out",
        model_role=role,
        model=role,
        prompt="plain",
        problem_id=problem,
        source="sums",
        samples=samples,
        correct=correct,
        majority=float(2 * correct > samples),
        undecided=0,
        truncated=0,
        malformed=0,
        failed=0,
        completion_tokens=40,
    )


def test_every_trace_is_counted_once_by_outcome_length_and_pass_rate(tmp_path: Path) -> None:
    said = ["passed", "passed", "failed", "undecided", "failed", "failed", "passed", "passed", "undecided"]
    traces = [trace(f"p{i // 3}", i % 3, correct, completion_tokens=10 * i) for i, correct in enumerate(said)]
    traces.append(trace("p9", 0, "passed", completion_tokens=None))
    counted = tally(written(tmp_path, traces))
    assert counted.traces == len(traces)
    assert sum(int(c.sum()) for c in counted.lengths.values()) + counted.uncounted == len(traces)
    assert counted.uncounted == 1
    assert counted.problems == {"60-79 %": 1, "0 %": 1, "100 %": 2}
    assert counted.banded["60-79 %", "kept"] == 2
    assert sum(counted.banded.values()) == len(traces)
    assert sum(row["traces"] for row in bins(counted.lengths)) == len(traces) - counted.uncounted


def test_a_problem_whose_traces_lie_in_two_row_groups_is_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.shard.GROUP_ROWS", 2)
    traces = [trace("a", i, "passed" if i else "failed") for i in range(5)] + [trace("b", 0, "failed")]
    counted = tally(written(tmp_path, traces))
    assert counted.problems == {"80-99 %": 1, "0 %": 1}


def test_traces_without_verdicts_are_counted_and_an_empty_run_counts_nothing(tmp_path: Path) -> None:
    counted = tally(written(tmp_path, [trace("a", 0, None), trace("b", 0, None)]))
    assert counted.outcomes == {("sums", "unfiltered"): 2}
    assert counted.unrated == 2
    assert tally(RowTable(Trace, [])).traces == 0
    assert bins({}) == []


def test_an_absurd_number_of_tokens_takes_no_memory(tmp_path: Path) -> None:
    counted = tally(written(tmp_path, [trace("a", 0, "passed", completion_tokens=10**15)]))
    assert sum(row["traces"] for row in bins(counted.lengths)) == 1


def test_bands_cover_every_pass_rate_and_keep_never_and_always_apart() -> None:
    assert [band(rate) for rate in (0, 0.001, 0.2, 0.5, 0.999, 1)] == [
        BANDS[0],
        BANDS[1],
        BANDS[2],
        BANDS[3],
        BANDS[5],
        BANDS[6],
    ]


def test_quantiles_are_those_of_the_traces(tmp_path: Path) -> None:
    traces = [trace("a", i, "passed", completion_tokens=i + 1) for i in range(100)]
    counted = tally(written(tmp_path, traces))
    assert quantiles(counted.lengths["correct"]) == (5, 50, 95)


def test_contaminated_traces_are_shown_with_the_shared_text(tmp_path: Path) -> None:
    hit = Verdict(
        filter="contamination", version=1, outcome="failed", reason="question", evidence="gsm8k: a b c"
    )
    traces = [trace("a", 0, "passed"), trace("b", 0, "passed", verdicts=(hit,)), trace("c", 0, "failed")]
    count, shown = hits(written(tmp_path, traces))
    assert count == 1
    assert shown[0] == ("b-0-0000", "sums", "question", "gsm8k: a b c")


def test_the_sample_contains_rare_outcomes_and_stays_within_its_bytes(tmp_path: Path) -> None:
    traces = [trace(f"p{i}", 0, "passed", response=f"{i} " * 200) for i in range(300)]
    traces.insert(150, trace("rare", 0, "failed"))
    rows = written(tmp_path, traces)
    found = sample.strata("filter", rows)
    assert {label: len(places) for label, places in found.items()} == {
        ("sums", "kept", ""): sample.EACH,
        ("sums", "rejected", "correct: incorrect"): 1,
    }
    shown = sample.read({"filter": rows}, sample.pick([], [found]), budget=10_000)
    assert shown[0]["problem_id"] == "rare"
    assert len(json.dumps(shown, ensure_ascii=False).encode()) <= 10_000
    assert found == sample.strata("filter", rows)


def test_long_texts_keep_both_ends_and_count_the_omitted_characters() -> None:
    clipped = clip("a" * 50 + "b" * 50, 10)
    assert clipped is not None
    assert clipped.startswith("aaaaa\n")
    assert clipped.endswith("\nbbbbb")
    assert "90 characters left out" in clipped


def test_fixed_and_broken_problems_follow_from_base_and_student() -> None:
    pairs = {"a": (0, 4), "b": (4, 1), "c": (4, 2), "d": (1, 0)}
    scores = [s for p, (b, st) in pairs.items() for s in (score(p, "base", b), score(p, "student", st))]
    changed = {problem: change for (_, problem), change in evaluation.changes(scores).items()}
    assert changed == {"a": "fixed", "b": "broken", "c": "solved by both", "d": "solved by neither"}
    assert evaluation.matrix(scores)["held_out"].total() == len(pairs)
    rows = evaluation.problems([*scores, score("e", "teacher", 4)], {"a": ("What?", "2")})
    assert [row["change"] for row in rows] == ["fixed", "broken", "solved by both", "solved by neither", ""]
    assert rows[0]["correct"] == {"base": [0, 4], "student": [4, 4]}


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    steps = [
        Step(
            **dict.fromkeys(Step.model_fields, None)
            | {"id": str(i), "step": i, "steps": 5000, "epoch": 1.0, "loss": 1 / (i + 1)}
        )
        for i in range(5000)
    ]
    points = curves.curve(steps, "loss")
    assert len(points) <= curves.POINTS
    assert points[-1]["x"] == 4999


def test_no_text_ends_its_block_of_json() -> None:
    block = page.in_script({"traces": [HOSTILE]})
    assert not re.search(r"[<>&\u2028\u2029]", block)
    assert json.loads(block) == {"traces": [HOSTILE]}


def test_a_chart_escapes_hostile_names() -> None:
    chart = charts.bars([{"name": HOSTILE.replace("\x1b", ""), "value": 3}], "traces")
    assert "<script" not in chart
    assert "<img" not in chart
    cleaned = charts.only_drawing(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" onload="x()"><script>x()</script>'
        '<g onclick="x()"><image href="//x"/><path d="M0 0" style="fill:url(//x)"/></g></svg>',
        "a chart",
    )
    assert not re.search(
        r"script|image|onload|onclick|//x", cleaned.replace('"http://www.w3.org/2000/svg"', "")
    )
    assert '<path d="M0 0"' in cleaned


STYLE = (Path(page.__file__).parent / "templates" / "report.css").read_text()
VARIABLE = re.compile(r"--(\w+): (#[0-9a-f]{6})")


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05), of relative luminances."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [":root {", ':root[data-theme="dark"] {'])
def test_every_colour_of_text_is_readable(theme: str) -> None:
    colours = dict(VARIABLE.findall(STYLE.partition(theme)[2].partition("}")[0]))
    view = (Path(page.__file__).parents[1] / "view" / "static" / "view.css").read_text()
    texts = set(re.findall(r"[ {;]color: var\(--(\w+)\)", STYLE + view)) - {
        "back"
    }  # back: of tooltips, on text
    assert {"text", "muted", "accent", "good", "bad", "unsure"} == texts
    pairs = [(text, back) for text in texts for back in ("back", "panel")] + [("text", "mark")]
    low = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: value for pair, value in low.items() if value < 4.5} == {}


def test_the_dark_colours_are_the_same_by_choice_and_by_system() -> None:
    by_system, by_choice = (
        VARIABLE.findall(STYLE.partition(start)[2].partition("}")[0])
        for start in (':root:not([data-theme="light"]) {', ':root[data-theme="dark"] {')
    )
    assert by_system == by_choice


def test_the_policy_lets_only_our_own_scripts_run_and_nothing_be_fetched() -> None:
    policy = page.policy("p {}", ["one()", "two()"])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == 3
    assert "http" not in policy
    scripts = policy.partition("script-src")[2].partition(";")[0]
    assert "unsafe" not in scripts

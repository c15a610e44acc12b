"""Exact and near-duplicates: golden cases, recall, bounded work, independence of shards."""

import json
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from filters.dataset.duplicates import DuplicateIndex
from filters.dataset.minhash import MAX_SHINGLES, jaccard, sketch
from pipeline.config.traces import Filter
from pipeline.engine.shard import Shard
from pipeline.filter.apply import FilterContext
from pipeline.filter.dedup import find_duplicates
from pipeline.rows import Trace, TraceVerdicts
from tests.unit.filters.test_table import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/duplicates.jsonl").read_text("utf-8").splitlines()]
WORDS = ["".join(random.Random(i).choices("abcdefghij", k=6)) for i in range(3000)]


def results(texts, *, threshold=0.8, ngram=5):
    with DuplicateIndex(threshold=threshold) as duplicates:
        duplicates.add([f"t{i}" for i in range(len(texts))], sketch(texts, threshold=threshold, ngram=ngram))
        return list(duplicates.results())


def changed(text, share, rng):
    """The text with a share of its words replaced."""
    return " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())


def a_text(rng, words=300):
    return " ".join(rng.choices(WORDS, k=words))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_duplicates_are_found_and_lookalikes_are_not(case):
    first, second = results([case["first"], case["second"]], **case["settings"])
    assert first.outcome == "passed"
    assert second.reason == case["reason"]


def test_the_evidence_names_the_kept_text_and_the_similarity():
    text = a_text(random.Random(1))
    words = text.split()
    close = " ".join([*words[:290], "x"])
    _, exact, near = results([text, text, close])
    assert exact.evidence == "t0"
    assert near.evidence == f"t0, similarity {286 / (296 + 1):.2f}"


def test_a_text_is_compared_with_kept_texts_only():
    words = a_text(random.Random(2)).split()
    chain = [
        " ".join(words[i * 20 : i * 20 + 200]) for i in range(3)
    ]  # each is similar to the next, but not to the one after
    assert [result.reason for result in results(chain, threshold=0.75)] == ["", "near_duplicate", ""]


def test_nearly_all_pairs_above_the_threshold_are_found_and_none_below():
    rng = random.Random(3)
    texts = [a_text(rng) for _ in range(300)]
    copies = [changed(text, rng.uniform(0, 0.05), rng) for text in texts]
    given = results(texts + copies)
    assert all(result.outcome == "passed" for result in given[:300])
    true = [jaccard(sketch([a]).shingles, sketch([b]).shingles) for a, b in zip(texts, copies, strict=True)]
    alike = [result.outcome == "failed" for result in given[300:]]
    assert not any(found for found, exact in zip(alike, true, strict=True) if exact < 0.8)
    wanted = [found for found, exact in zip(alike, true, strict=True) if exact >= 0.8]
    assert len(wanted) > 150
    assert sum(wanted) / len(wanted) > 0.97


def test_results_do_not_depend_on_workers_or_shards():
    rng = random.Random(4)
    texts = [a_text(rng, 80) for _ in range(60)]
    texts += [changed(text, 0.02, rng) for text in texts]
    whole = results(texts)
    shards = [texts[:7], [], texts[7:50], texts[50:]]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool, DuplicateIndex() as duplicates:
        at = 0
        for some in pool.map(sketch, shards):
            duplicates.add([f"t{i}" for i in range(at, at + len(some.counts))], some)
            at += len(some.counts)
        assert list(duplicates.results()) == whole


def test_the_similarity_of_long_texts_is_estimated_within_a_few_hundredths():
    rng = random.Random(6)
    for share in (0.01, 0.03, 0.1):
        text = a_text(rng, 20_000)
        other = changed(text, share, rng)
        runs = [
            {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
            for words in (text.split(), other.split())
        ]
        true = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        ours, theirs = (sketch([t]).shingles for t in (text, other))
        assert len(ours) == MAX_SHINGLES
        assert abs(jaccard(ours, theirs) - true) < 0.06


def test_many_similar_texts_cost_a_bounded_number_of_comparisons(monkeypatch):
    rng = random.Random(7)
    common = a_text(rng, 150)
    texts = [f"{common} {a_text(rng, 60)}" for _ in range(400)]  # similarity 0.55
    asked = []
    monkeypatch.setattr("filters.dataset.duplicates.jaccard", lambda a, b: asked.append(1) or jaccard(a, b))
    assert {result.outcome for result in results(texts)} == {"passed"}
    assert len(asked) <= 16 * len(texts)


def test_no_texts_and_texts_without_words_have_sketches():
    assert [len(part) for part in sketch([])] == [0, 0, 0, 0]
    assert results([]) == []
    assert [result.reason for result in results(["", "a b", "?!"])] == ["", "", "duplicate"]


def test_a_sketch_does_not_depend_on_the_other_texts():
    texts = [a_text(random.Random(i), i % 30) for i in range(100)]
    together = sketch(texts)
    ends = np.cumsum(together.counts)
    for i, text in enumerate(texts):
        alone = sketch([text])
        assert alone.digests[0] == together.digests[i]
        assert (alone.bands[0] == together.bands[i]).all()
        assert alone.shingles.tolist() == together.shingles[ends[i] - together.counts[i] : ends[i]].tolist()


def of_a_shard(folder, *traces):
    stored, verdicts = Shard(folder, "s", Trace, {}), Shard(folder, "v", TraceVerdicts, {})
    stored.write([trace.model_dump() for trace in traces])
    verdicts.write([trace.model_dump(include=set(TraceVerdicts.model_fields)) for trace in traces])
    context = FilterContext(Filter(duplicates={"problems": None}))
    (found,) = find_duplicates(context, [(stored, verdicts)], len(traces), folder).values()
    return {key: result.reason for key, result in found.items()}


def a_sample(number, **changes):
    return a_trace(id=f"t{number}", outcome="kept", **changes)


def test_a_long_shared_question_makes_no_duplicates(tmp_path):
    rng = random.Random(8)
    question = a_text(rng, 600)
    traces = [a_sample(i, question=question, reasoning=a_text(rng, 60)) for i in range(3)]
    assert of_a_shard(tmp_path, *traces) == {}


def test_the_same_reasoning_for_two_questions_is_a_duplicate(tmp_path):
    reasoning = a_text(random.Random(9), 60)
    traces = [
        a_sample(i, problem_id=f"p{i}", question=f"Question {i}?", reasoning=reasoning) for i in range(2)
    ]
    assert of_a_shard(tmp_path, *traces) == {"t1": "duplicate"}


def test_short_traces_are_duplicates_only_under_the_same_question(tmp_path):
    short = {"reasoning": None, "response": "The answer is 7."}
    traces = [a_sample(i, problem_id=f"p{i // 2}", **short) for i in range(4)]
    assert of_a_shard(tmp_path, *traces) == {"t1": "duplicate", "t3": "duplicate"}

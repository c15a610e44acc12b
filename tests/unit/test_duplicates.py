"""Exact and near duplicates on cases; what stays does not depend on who sketched it; recall and memory."""

import json
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from filters.dataset.duplicates import Duplicates
from filters.dataset.minhash import SHINGLES, similarity, sketch
from pipeline.config.traces import Filter
from pipeline.engine.shard import Shard
from pipeline.filter.apply import FilterContext
from pipeline.filter.dedup import find_duplicates
from pipeline.rows import Trace
from tests.unit.test_filters import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/duplicates.jsonl").read_text("utf-8").splitlines()]
WORDS = ["".join(random.Random(i).choices("abcdefghij", k=6)) for i in range(3000)]


def findings(texts, *, threshold=0.8, ngram=5):
    with Duplicates(threshold=threshold) as duplicates:
        duplicates.add([f"t{i}" for i in range(len(texts))], sketch(texts, threshold=threshold, ngram=ngram))
        return list(duplicates.findings())


def changed(text, share, rng):
    """The text with a share of its words replaced."""
    return " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())


def a_text(rng, words=300):
    return " ".join(rng.choices(WORDS, k=words))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_duplicate_is_told_and_what_merely_looks_like_one_is_not(case):
    first, second = findings([case["first"], case["second"]], **case["settings"])
    assert first.outcome == "passed"
    assert second.reason == case["reason"]


def test_the_evidence_names_the_text_that_stays_and_the_similarity():
    text = a_text(random.Random(1))
    words = text.split()
    close = " ".join([*words[:290], "x"])
    _, exact, near = findings([text, text, close])
    assert exact.evidence == "t0"
    assert near.evidence == f"t0, similarity {286 / (296 + 1):.2f}"


def test_a_text_is_compared_with_those_that_stay_alone():
    words = a_text(random.Random(2)).split()
    chain = [
        " ".join(words[i * 20 : i * 20 + 200]) for i in range(3)
    ]  # each is like the next, not the one after
    assert [finding.reason for finding in findings(chain, threshold=0.75)] == ["", "near_duplicate", ""]


def test_nearly_all_pairs_above_the_threshold_are_found_and_none_below():
    rng = random.Random(3)
    texts = [a_text(rng) for _ in range(300)]
    copies = [changed(text, rng.uniform(0, 0.05), rng) for text in texts]
    given = findings(texts + copies)
    assert all(finding.outcome == "passed" for finding in given[:300])
    true = [
        similarity(sketch([a]).shingles, sketch([b]).shingles) for a, b in zip(texts, copies, strict=True)
    ]
    alike = [finding.outcome == "failed" for finding in given[300:]]
    assert not any(found for found, exact in zip(alike, true, strict=True) if exact < 0.8)
    wanted = [found for found, exact in zip(alike, true, strict=True) if exact >= 0.8]
    assert len(wanted) > 150
    assert sum(wanted) / len(wanted) > 0.97


def test_the_same_is_said_for_any_number_of_workers_and_any_cut_into_shards():
    rng = random.Random(4)
    texts = [a_text(rng, 80) for _ in range(60)]
    texts += [changed(text, 0.02, rng) for text in texts]
    whole = findings(texts)
    shards = [texts[:7], [], texts[7:50], texts[50:]]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool, Duplicates() as duplicates:
        at = 0
        for some in pool.map(sketch, shards):
            duplicates.add([f"t{i}" for i in range(at, at + len(some.counts))], some)
            at += len(some.counts)
        assert list(duplicates.findings()) == whole


def test_of_long_texts_the_similarity_is_measured_to_within_a_few_hundredths():
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
        assert len(ours) == SHINGLES
        assert abs(similarity(ours, theirs) - true) < 0.06


def test_a_crowd_of_texts_that_share_much_costs_a_bounded_number_of_comparisons(monkeypatch):
    rng = random.Random(7)
    common = a_text(rng, 150)
    texts = [f"{common} {a_text(rng, 60)}" for _ in range(400)]  # alike to 0.55
    asked = []
    monkeypatch.setattr(
        "filters.dataset.duplicates.similarity", lambda a, b: asked.append(1) or similarity(a, b)
    )
    assert {finding.outcome for finding in findings(texts)} == {"passed"}
    assert len(asked) <= 16 * len(texts)


def test_a_sketch_of_no_texts_and_of_texts_without_words_is_no_trouble():
    assert [len(part) for part in sketch([])] == [0, 0, 0, 0]
    assert findings([]) == []
    assert [finding.reason for finding in findings(["", "a b", "?!"])] == ["", "", "duplicate"]


def test_every_text_has_a_sketch_of_its_own_whatever_stands_beside_it():
    texts = [a_text(random.Random(i), i % 30) for i in range(100)]
    together = sketch(texts)
    ends = np.cumsum(together.counts)
    for i, text in enumerate(texts):
        alone = sketch([text])
        assert alone.digests[0] == together.digests[i]
        assert (alone.bands[0] == together.bands[i]).all()
        assert alone.shingles.tolist() == together.shingles[ends[i] - together.counts[i] : ends[i]].tolist()


def of_a_shard(folder, *traces):
    shard = Shard(folder, "s", Trace, {})
    shard.write([trace.model_dump() for trace in traces])
    (found,) = find_duplicates(
        FilterContext(Filter(duplicates={"problems": None})), [shard], len(traces), folder
    ).values()
    return {key: finding.reason for key, finding in found.items()}


def a_sample(number, **changes):
    return a_trace(id=f"t{number}", outcome="kept", **changes)


def test_a_long_question_makes_no_duplicates_of_traces_that_differ(tmp_path):
    rng = random.Random(8)
    question = a_text(rng, 600)
    traces = [a_sample(i, question=question, reasoning=a_text(rng, 60)) for i in range(3)]
    assert of_a_shard(tmp_path, *traces) == {}


def test_a_thought_that_is_said_twice_is_a_duplicate_whatever_was_asked(tmp_path):
    thought = a_text(random.Random(9), 60)
    traces = [a_sample(i, problem_id=f"p{i}", question=f"Question {i}?", reasoning=thought) for i in range(2)]
    assert of_a_shard(tmp_path, *traces) == {"t1": "duplicate"}


def test_the_same_few_words_are_duplicates_only_as_answers_to_the_same_question(tmp_path):
    short = {"reasoning": None, "response": "The answer is 7."}
    traces = [a_sample(i, problem_id=f"p{i // 2}", **short) for i in range(4)]
    assert of_a_shard(tmp_path, *traces) == {"t1": "duplicate", "t3": "duplicate"}

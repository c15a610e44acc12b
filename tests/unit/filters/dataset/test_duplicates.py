"""Exact and near-duplicates: golden cases, recall, bounded work, independence of shards."""

import json
import random
import resource
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from filters.dataset import duplicates
from filters.dataset.duplicates import MAX_BUCKET, MAX_CANDIDATES, DuplicateIndex
from filters.dataset.minhash import KEYS, MAX_SHINGLES, jaccard, text_keys, text_shingles

CASES = [json.loads(line) for line in Path("tests/cases/duplicates.jsonl").read_text("utf-8").splitlines()]
WORDS = ["".join(random.Random(i).choices("abcdefghij", k=6)) for i in range(3000)]


def failures(*batches, threshold=0.8, ngram=5, keys=text_keys, folder=None):
    """The reason and evidence of each text that repeats an earlier one; texts are t0, t1..."""
    texts = [text for batch in batches for text in batch]
    failed = {}
    with DuplicateIndex(threshold=threshold, folder=folder) as index:
        for batch in batches:
            index.add(keys(batch, threshold=threshold, ngram=ngram))
        index.group()
        start = 0
        for i, batch in enumerate(batches):
            shared = (start + index.shared(i)).tolist()
            shingles = text_shingles([texts[j] for j in shared], ngram=ngram)
            failed |= index.compare(i, [f"t{j}" for j in shared], shingles)
            start += len(batch)
    return {key: (result.reason, result.evidence) for key, result in failed.items()}


def failures_in_memory(texts, threshold):
    """The same search in its plainest form, with all kept texts in memory."""
    keys, shingles = text_keys(texts, threshold=threshold).tolist(), text_shingles(texts)
    kept, failed = defaultdict(list), {}
    for i in range(len(texts)):
        buckets = list(enumerate(keys[i]))
        shared = Counter(j for bucket in buckets for j in kept[bucket])
        likely = sorted(shared, key=lambda j: (-shared[j], j))[:MAX_CANDIDATES]
        alike = {j: jaccard(shingles[i], shingles[j]) for j in likely}
        closest = max(alike, key=lambda j: (alike[j], -j), default=None)
        if equal := [j for j in shared if keys[j][0] == keys[i][0]]:
            failed[f"t{i}"] = "duplicate", f"t{min(equal)}"
        elif closest is not None and alike[closest] >= threshold:
            failed[f"t{i}"] = "near_duplicate", f"t{closest}, similarity {alike[closest]:.2f}"
        else:
            for bucket in buckets:
                if len(kept[bucket]) < MAX_BUCKET:
                    kept[bucket].append(i)
    return failed


def changed(text, share, rng):
    """The text with a share of its words replaced."""
    return " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())


def a_text(rng, words=300):
    return " ".join(rng.choices(WORDS, k=words))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_duplicates_are_found_and_lookalikes_are_not(case):
    found = failures([case["first"], case["second"]], **case["settings"])
    assert {key: reason for key, (reason, _) in found.items()} == (
        {"t1": case["reason"]} if case["reason"] else {}
    )


def test_the_evidence_names_the_kept_text_and_the_similarity():
    text = a_text(random.Random(1))
    words = text.split()
    close = " ".join([*words[:290], "x"])
    assert failures([text, text, close]) == {
        "t1": ("duplicate", "t0"),
        "t2": ("near_duplicate", f"t0, similarity {286 / (296 + 1):.2f}"),
    }


def test_a_text_is_compared_with_kept_texts_only():
    words = a_text(random.Random(2)).split()
    chain = [
        " ".join(words[i * 20 : i * 20 + 200]) for i in range(3)
    ]  # each is similar to the next, but not to the one after
    assert failures(chain, threshold=0.75).keys() == {"t1"}


def test_nearly_all_pairs_above_the_threshold_are_found_and_none_below():
    rng = random.Random(3)
    texts = [a_text(rng) for _ in range(300)]
    copies = [changed(text, rng.uniform(0, 0.05), rng) for text in texts]
    found = failures(texts + copies)
    assert not any(f"t{i}" in found for i in range(300))
    true = [jaccard(*text_shingles(pair)) for pair in zip(texts, copies, strict=True)]
    alike = [f"t{i}" in found for i in range(300, 600)]
    assert not any(found for found, exact in zip(alike, true, strict=True) if exact < 0.8)
    wanted = [found for found, exact in zip(alike, true, strict=True) if exact >= 0.8]
    assert len(wanted) > 150
    assert sum(wanted) / len(wanted) > 0.97


def many_texts(count):
    """Fresh texts, copies with a few changed words, chains of those, exact copies, texts of one template."""
    rng = random.Random(4)
    template = a_text(rng, 22)
    texts = [a_text(rng, 40)]
    while len(texts) < count:
        kind, other = rng.random(), texts[-rng.randint(1, min(len(texts), 3000))]
        if kind < 0.6:
            texts.append(a_text(rng, rng.randint(3, 60)))
        elif kind < 0.65:
            texts.append(other)
        elif kind < 0.7:
            texts.append(f"{template} {a_text(rng, 12)}")
        else:
            texts.append(changed(other, rng.uniform(0, 0.1), rng))
    return texts


def test_failures_are_those_of_a_search_in_memory(monkeypatch):
    texts = many_texts(20_000)
    expected = failures_in_memory(texts, 0.6)
    assert Counter(reason for reason, _ in expected.values()).keys() == {"duplicate", "near_duplicate"}
    assert 3000 < len(expected) < 15_000
    shards = [texts[i : i + 512] for i in range(0, len(texts), 512)]
    assert failures(*shards, threshold=0.6) == expected
    monkeypatch.setattr(duplicates, "KEYS_AT_ONCE", 3000)
    assert failures(*shards, threshold=0.6) == expected


def test_failures_do_not_depend_on_workers_or_shards():
    texts = many_texts(300)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = failures(
            texts[:7],
            [],
            texts[7:150],
            texts[150:],
            keys=lambda batch, **settings: pool.submit(text_keys, batch, **settings).result(),
        )
    assert found == failures(texts)
    assert found


def test_a_killed_process_leaves_no_file_behind(tmp_path):
    with DuplicateIndex(folder=tmp_path) as index:
        index.add(text_keys(["a b c", "a b c"]))
        index.group()
        assert index.shared(0).tolist() == [0, 1]
        assert index.compare(0, ["t0", "t1"], text_shingles(["a b c"] * 2)).keys() == {"t1"}
        assert list(tmp_path.iterdir()) == []  # the files have no name, and so end with the process


@pytest.mark.parametrize("most", [100, 8 * 1000])  # fails while keys are written, and while they are grouped
def test_a_full_disk_is_an_error_of_the_system(tmp_path, most):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            failures(["the same text"] * 3000, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
        ours, theirs = text_shingles([text, other])
        assert len(ours) == MAX_SHINGLES
        assert abs(jaccard(ours, theirs) - true) < 0.06


def test_many_similar_texts_cost_a_bounded_number_of_comparisons(monkeypatch):
    rng = random.Random(7)
    common = a_text(rng, 150)
    texts = [f"{common} {a_text(rng, 60)}" for _ in range(400)]  # similarity 0.55
    asked = []
    monkeypatch.setattr("filters.dataset.duplicates.jaccard", lambda a, b: asked.append(1) or jaccard(a, b))
    assert failures(texts) == {}
    assert len(asked) <= 16 * len(texts)


def test_no_texts_and_texts_without_words_have_keys():
    assert text_keys([]).shape == (0, KEYS)
    assert text_shingles([]) == []
    assert failures([]) == {}
    assert failures(["", "a b", "?!"]) == {"t2": ("duplicate", "t0")}


def test_keys_and_shingles_do_not_depend_on_the_other_texts():
    texts = [a_text(random.Random(i), i % 30) for i in range(100)]
    assert text_keys(texts).tolist() == [text_keys([text]).tolist()[0] for text in texts]
    alone = [text_shingles([text])[0].tolist() for text in texts]
    assert [shingles.tolist() for shingles in text_shingles(texts)] == alone

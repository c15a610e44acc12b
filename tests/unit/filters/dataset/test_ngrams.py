"""Normalized words of texts, and hashes of their n-grams."""

import random

import numpy as np
import pytest

from filters.dataset.ngrams import WORD_LIMIT, batches, ngram_hashes, short_text_hashes, split_words


def said(text):
    words = split_words([text])
    return words.quote(0, len(words.text_of))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't  STOP,\n(now)!", "don t stop now"),
        ("1,234,567 and 1,2", "1234567 and 1 2"),
        ("3.5. And .5", "3.5 and 5"),
        ("twenty-one, 5-3 and x-y", "twenty one 5 - 3 and x - y"),
        ("3x+4=7", "3 x + 4 = 7"),
        ("**16** eggs, 2*3", "16 eggs 2 * 3"),
        (r"\(\frac{1}{2}\) of $1{,}000$", "1 / 2 of 1000"),
        (r"\textbf{Five} \times 2 \leq \sqrt{x}", "five * 2 < = sqrt x"),
        ("2² ≤ 3×4−1", "2 ^ 2 < = 3 * 4 - 1"),  # noqa: RUF001
        (r"\frac12 + \dfrac1{3} + \cfrac{x}y", "1 / 2 + 1 / 3 + x / y"),
        (r"\begin{align*} a &\ne b \end{align*}\ldots", "a neq b"),
        (r"\theta = 30^{\circ}, f \circ g", "theta = 30 degree f circ g"),
        ("θ = 30°, f ∘ g, √2πr ≠ Δx", "theta = 30 degree f circ g sqrt 2 pi r neq delta x"),
        ("μεγάλος, 5 µm, 5 μm", "μεγάλοσ 5 mu m 5 mu m"),
        ("ＡＢ１２ ﬁne", "ab 12 fine"),  # noqa: RUF001
        ("“Straße” — cafe\u0301", "strasse café"),
        ("答案是12。", "答 案 是 12"),
        ("a\ud800b", "a b"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("1½ of $2{,}500$, ①", "1 1 / 2 of 2500 1"),
        ("20% <think>", "20 % < think >"),
        ("?!", ""),
    ],
)
def test_a_text_is_split_into_normalized_words(text, words):
    assert said(text) == words


def test_a_batch_gives_the_words_of_each_text_alone():
    rng = random.Random(1)
    texts = ["".join(rng.choices("ab 1.,-*é漢\\$+\n", k=rng.randrange(60))) for _ in range(300)]
    together = split_words(texts)
    for i, text in enumerate(texts):
        alone = split_words([text])
        here = np.flatnonzero(together.text_of == i)
        assert together.hashes[here].tolist() == alone.hashes.tolist()
        assert together.quote(*(here[0], here[-1] + 1) if len(here) else (0, 0)) == said(text)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
def test_two_n_grams_have_the_same_hash_only_if_they_are_equal(n):
    rng = random.Random(n)
    texts = [" ".join(rng.choices(["a", "b", "aa", "+", "7"], k=rng.randrange(40))) for _ in range(100)]
    words = split_words(texts)
    hashes, first = ngram_hashes(words, n)
    quotes = [words.quote(i, i + n) for i in first.tolist()]
    wanted = [" ".join(t.split()[i : i + n]) for t in texts for i in range(len(t.split()) - n + 1)]
    assert quotes == wanted
    assert (
        len(set(hashes.tolist())) == len(set(quotes)) == len(set(zip(quotes, hashes.tolist(), strict=True)))
    )


def test_short_texts_are_hashed_as_a_whole():
    texts = ["a b", "", "b a", "a b c d", "a", "A, b!", "a b c"]
    words = split_words(texts)
    hashes, first = short_text_hashes(words, 4)
    assert words.text_of[first].tolist() == [0, 2, 4, 5, 6]
    assert hashes[0] == hashes[3]
    assert len(set(hashes.tolist())) == 4


def test_a_word_is_hashed_up_to_a_limit_and_by_its_length():
    same, longer, other = "a" * WORD_LIMIT, "a" * (WORD_LIMIT + 1), "b" + "a" * (WORD_LIMIT - 1)
    assert len(set(split_words([f"{same} {longer} {other}"]).hashes.tolist())) == 3


def test_hashes_are_the_same_in_every_process():
    assert split_words(["one 2 +"]).hashes.tolist() == [
        12914860095451781108,
        15263003201147282981,
        15115808864189122588,
    ]


def test_batches_contain_every_text_once():
    texts = ["x" * 100_000] * 7 + [""] * 3
    assert [text for _, some in batches(texts) for text in some] == texts
    assert [start for start, _ in batches(texts)] == [0, 3, 6]
    assert list(batches([])) == []

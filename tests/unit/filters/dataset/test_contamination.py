"""Decontamination: golden cases, common phrases, evidence and invalid input."""

import json
import pickle
import random
from pathlib import Path

import pytest

from filters.dataset.contamination import ContaminationIndex
from pipeline.config.filters import Filter
from pipeline.errors import UserError
from pipeline.filter.apply import FilterContext, contamination_index, questions_only
from pipeline.ingest.sources import check
from tests.unit.filters.test_table import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/contamination.jsonl").read_text("utf-8").splitlines()]
QUESTION = CASES[0]["text"]


def rows(*questions):
    return [(str(i), question) for i, question in enumerate(questions)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_text_matches_only_if_it_contains_an_evaluation_problem(case):
    index = ContaminationIndex({"exam": rows(*case["evaluation"])}, ngrams=case["ngrams"])
    (match,) = index.matches([case["text"]])
    assert (match and match.n) == case["n"]


def test_the_evidence_names_the_set_the_row_and_the_shared_words():
    index = ContaminationIndex({"other": rows("Nothing of that kind."), "exam": rows("Wholly new", QUESTION)})
    reasoning = (
        "I recall: She fills 9 crates on Monday and 6 crates on Tuesday, and then a customer sends none."
    )
    (result,) = index.results([a_trace(reasoning=reasoning)])
    assert result.reason == "reasoning_13_gram"
    assert result.evidence == (
        "exam 1: she fills 9 crates on monday and 6 crates on tuesday and then a customer sends"
    )


def test_a_problem_that_an_evaluation_set_repeats_is_no_common_phrase():
    index = ContaminationIndex({"exam": rows(*[QUESTION, "Wholly new"] * 32), "other": rows(f"{QUESTION} ")})
    (match,) = index.matches([QUESTION])
    assert match is not None
    assert (match.source, match.row, match.n) == ("exam", "0", 13)


def test_a_match_is_found_in_question_reasoning_and_response():
    index = ContaminationIndex({"exam": rows(QUESTION)})
    texts = [{"question": QUESTION}, {"reasoning": QUESTION}, {"response": QUESTION}, {"reasoning": None}]
    results = index.results([a_trace(**changes) for changes in texts])
    assert [result.reason for result in results] == [
        "question_13_gram",
        "reasoning_13_gram",
        "response_13_gram",
        "",
    ]


def test_an_n_gram_never_spans_two_texts():
    index = ContaminationIndex({"exam": rows(QUESTION)}, ngrams=[8])
    words = QUESTION.split()
    pieces = [" ".join(words[i : i + 7]) for i in range(0, len(words), 7)]
    assert index.matches(pieces) == [None] * len(pieces)


def test_an_n_gram_of_many_evaluation_problems_does_not_match():
    phrase = "how many of them are there in total at the end of the day"
    problems = rows(*(f"Problem {i} is about {i} foxes and {i * i} hens; {phrase}?" for i in range(5)))
    text = f"There are cats and dogs; {phrase}?"
    assert ContaminationIndex({"exam": problems}, common=4).matches([text]) == [None]
    (match,) = ContaminationIndex({"exam": problems}, common=5).matches([text])
    assert (match.row, match.text) == ("0", phrase)


def test_a_phrase_repeated_within_one_problem_counts_once():
    chorus = "the wheels of the tram go round and round all day long"
    index = ContaminationIndex({"exam": rows(" ; ".join([chorus] * 30))}, common=1)
    (match,) = index.matches([chorus])
    assert match.n == 8


def test_a_batch_of_texts_gives_the_matches_of_each_text_alone():
    rng = random.Random(5)
    words = [chr(97 + i % 26) * (1 + i // 26) for i in range(60)]
    problems = [" ".join(rng.choices(words, k=rng.randrange(1, 40))) for _ in range(300)]
    index = ContaminationIndex({"exam": rows(*problems)}, ngrams=[4, 6], common=1000)
    texts = [" ".join(rng.choices(words, k=rng.randrange(0, 3000))) for _ in range(200)]
    texts += rng.sample(problems, 50)
    assert index.matches(texts) == [index.matches([text])[0] for text in texts]
    runs = {
        n: {tuple(p.split()[i : i + n]) for p in problems for i in range(len(p.split()) - n + 1)}
        for n in (4, 6)
    }
    for text, match in zip(texts, index.matches(texts), strict=True):
        own = text.split()
        lengths = [
            n for n in (6, 4) if any(tuple(own[i : i + n]) in runs[n] for i in range(len(own) - n + 1))
        ]
        if lengths or len(own) >= 4:
            assert (match and match.n) == (lengths[0] if lengths else None)


@pytest.mark.parametrize("questions", [[], [""], ["", "  \n"]])
def test_an_evaluation_set_without_a_question_is_refused_by_name(questions):
    with pytest.raises(UserError, match="'exam' has no question"):
        ContaminationIndex({"exam": rows(*questions)})


def evaluation_file(folder, *lines):
    path = folder / "exam.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"against": [{"kind": "file", "path": str(path)}]}


def test_the_answers_of_an_evaluation_set_do_not_matter(tmp_path):
    settings = evaluation_file(tmp_path, {"question": QUESTION, "answer": ["2"]}, {"question": " "})
    index = contamination_index(Filter(contamination=settings))
    assert index.matches([QUESTION])[0]


def test_the_evidence_names_no_folder(tmp_path):
    settings = Filter(contamination=evaluation_file(tmp_path, {"question": QUESTION}))
    match = contamination_index(settings).matches([QUESTION])[0]
    assert (match.source, match.row) == ("exam", "exam.jsonl:1")


def test_a_file_of_questions_alone_is_enough(tmp_path):
    settings = Filter(contamination=evaluation_file(tmp_path, {"question": QUESTION}))
    for source in settings.contamination.against:
        check(questions_only(source))
    assert contamination_index(settings).matches([QUESTION])[0]


def test_an_unreadable_question_is_an_error(tmp_path):
    settings = evaluation_file(tmp_path, {"question": QUESTION}, {"question": ["a", "b"]})
    with pytest.raises(UserError, match=r"'exam': .*exam.jsonl:2: the question is a list"):
        contamination_index(Filter(contamination=settings))


def test_worker_processes_get_the_index_with_the_context(tmp_path):
    context = FilterContext(Filter(contamination=evaluation_file(tmp_path, {"question": QUESTION})))
    assert context.contamination
    (tmp_path / "exam.jsonl").unlink()
    assert pickle.loads(pickle.dumps(context)).contamination.matches([QUESTION])[0]

"""Problems whose answers follow instructions, read from rows in the layout of IFEval."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.table import apply_rules
from pipeline.config.benchmarks import sets_of
from pipeline.config.evaluate import EvaluationSet
from pipeline.config.ingest import Ingest
from pipeline.errors import UserError
from pipeline.filter.apply import questions_only
from pipeline.ingest import sources
from pipeline.ingest.files import BadRow
from pipeline.init.columns import first_problem, source_of
from tests.punkt import punkt_in, without_lm_eval
from tests.unit.filters.test_table import a_trace

WORDS = {"relation": "at least", "num_words": 4}
ROWS = [
    {
        "key": 1,
        "prompt": "Describe tea. Do not use commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{"relation": None, "num_words": None}],
    },
    {
        "key": 2,
        "prompt": "Describe milk in at least 4 words, under a title in double angular brackets.",
        "instruction_id_list": ["detectable_format:title", "length_constraints:number_words"],
        "kwargs": [{"relation": None, "num_words": None}, WORDS],
    },
]


@pytest.fixture(autouse=True, scope="module")
def punkt(tmp_path_factory: pytest.TempPathFactory):
    with punkt_in(tmp_path_factory.mktemp("nltk")):
        yield


def written(folder, rows, name="ifeval.jsonl"):
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, **settings):
    given = {
        "kind": "file",
        "path": str(path),
        "answer_type": "instructions",
        "question": "prompt",
    } | settings
    (source,) = Ingest.model_validate({"sources": [given]}).sources
    sources.check(source)
    return list(sources.read(source, held_out=0, seed=0))


@pytest.mark.parametrize("name", ["ifeval.jsonl", "ifeval.parquet"])
def test_a_row_of_the_benchmark_becomes_a_problem_that_its_instructions_grade(name, tmp_path):
    (given,) = sets_of(f"ifeval={written(tmp_path, ROWS, name)}")
    (source,) = EvaluationSet.model_validate(given).sources
    sources.check(source)
    first, second = sources.read(source, held_out=0, seed=0)
    assert (first.question, first.split, first.answer_type) == (ROWS[0]["prompt"], "held_out", "instructions")
    assert json.loads(first.reference) == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert json.loads(second.reference)["kwargs"] == [{}, WORDS]
    assert second.column_values == {"key": 2}
    trace = a_trace(reference=second.reference, answer_type="instructions", response="<<Milk>> It is white.")
    rules = {"correct": {"timeout": 60.0}, "final_answer": {}}
    assert apply_rules(trace, rules).outcome == "kept"
    assert (
        apply_rules(trace.model_copy(update={"response": "<<Milk>>"}), rules).reason == "correct: incorrect"
    )


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"instruction_id_list": None}, "the instructions are not a list of ids"),
        ({"instruction_id_list": "no JSON"}, "the instructions cannot be read: Expecting value"),
        ({"kwargs": [{}, {}]}, "the arguments are not a list of one object for each instruction"),
        (
            {"instruction_id_list": ["a:b"]},
            "the instructions cannot be checked: a:b: lm-eval lacks one of them",
        ),
        (
            {"instruction_id_list": ["keywords:existence"]},
            "the instructions cannot be checked: keywords:existence",
        ),
    ],
)
def test_a_row_that_cannot_be_checked_is_left_out_with_the_reason(changed, why, tmp_path):
    bad, good = read(written(tmp_path, [ROWS[0] | changed, ROWS[1]]))
    assert isinstance(bad, BadRow)
    assert bad.why.startswith(why)
    assert not isinstance(good, BadRow)


def test_the_columns_may_have_other_names_and_hold_json(tmp_path):
    row = {"prompt": "Describe tea.", "ids": '["punctuation:no_comma"]', "given": "[{}]"}
    (problem,) = read(written(tmp_path, [row]), reference="ids", arguments="given")
    assert json.loads(problem.reference) == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert problem.columns is None, "what grades an answer must not reach a prompt"
    with pytest.raises(UserError, match="no column 'kwargs'"):
        read(written(tmp_path, [row]), reference="ids")


@pytest.mark.parametrize("settings", [{"answer_type": "text", "arguments": "kwargs"}, {"reference": ""}])
def test_the_two_columns_belong_to_this_answer_type(settings, tmp_path):
    with pytest.raises(ValueError, match="together with reference and arguments"):
        read(written(tmp_path, ROWS), **settings)


def test_init_recognizes_the_columns(tmp_path):
    path = written(tmp_path, ROWS)
    source = source_of(str(path), {"question": None, "answer": None, "answer_type": None})
    assert (source["question"], source["answer_type"]) == ("prompt", "instructions")
    assert first_problem(source).reference == json.dumps(
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    )


def test_a_source_is_refused_where_nothing_can_check_it_unless_only_its_questions_are_read(tmp_path):
    path = written(tmp_path, ROWS)
    (source,) = EvaluationSet.model_validate({"benchmark": "ifeval", "path": str(path)}).sources
    with without_lm_eval(tmp_path):
        with pytest.raises(UserError, match="instructions are checked by lm-eval"):
            sources.check(source)
        questions = questions_only(source)
        sources.check(questions)
        assert [row.question for row in sources.read(questions, 0, 0)] == [row["prompt"] for row in ROWS]

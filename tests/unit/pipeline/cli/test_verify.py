"""`retort verify`: one pair for a person, a file of pairs for a program."""

import io
import json
import subprocess
import sys

import pytest

from pipeline.cli.verify import _pairs, grade_pairs
from pipeline.errors import UserError


def retort(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", *arguments], capture_output=True, text=True
    )


def test_one_pair_is_shown_with_the_compared_texts_and_the_deciding_layer():
    done = retort("--gold", r"So it is \boxed{\frac{1}{2}}.", "--pred", "The answer is 0.5.")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert lines[:4] == [
        ["verdict", "correct"],
        ["reference", r"\frac{1}{2}"],
        ["answer", "0.5"],
        ["layer", "number"],
    ]
    assert done.returncode == 0


def test_each_row_of_a_file_is_returned_in_order_with_its_verdict(tmp_path, capsys):
    rows = [
        {"id": "a", "gold": "7", "pred": "The answer is 7."},
        {"gold": "7", "pred": "8", "extra": {"kept": [1]}},
        {"gold": "7", "pred": None},
        {"gold": 5, "pred": 5.0},
        {"gold": None, "pred": "7"},
        {"gold": "1", "pred": "\ud800 1"},
    ]
    assert [(r["verdict"], r["reason"]) for r in graded(tmp_path, rows, capsys)] == [
        ("correct", ""),
        ("incorrect", "incorrect"),
        ("undecided", "no_answer"),
        ("correct", ""),
        ("undecided", "no_reference"),
        ("correct", ""),
    ]


def test_the_other_fields_of_a_row_are_kept(tmp_path, capsys):
    row = {"id": "a", "gold": "7", "pred": "8", "extra": {"kept": [1]}}
    (back,) = graded(tmp_path, [row], capsys)
    assert back.pop("ms") >= 0
    assert back == row | {"verdict": "incorrect", "reason": "incorrect", "layer": "number"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object in one line"),
        ("[1]", "a list, not an object"),
        ('{"gold": "1"}', "no 'pred'"),
        ('{"gold": ["1"], "pred": "1"}', "'gold' is a list"),
        ("[" * 100_000, "not a JSON object in one line"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"gold": "1", "pred": "1"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=f"pairs.jsonl:3: .*{message}") as error:
        grade_pairs(path, "math", ())
    assert len(str(error.value)) < 500


def test_a_missing_file_and_a_wrong_setting_are_mistakes_in_one_line(tmp_path):
    for arguments, message in (
        (["--pairs", str(tmp_path / "none.jsonl")], "none.jsonl: No such file"),
        (["--gold", "1"], "a reference and a response, or --pairs"),
        (["--gold", "1", "--pred", "1", "rounding_digit=3"], "did you mean 'rounding_digits'?"),
        (["--gold", "1", "--pred", "1", "rounding_digits"], "NAME=VALUE"),
        (["--gold", "1", "--pred", "1", "code_seconds=2"], "no program is run here"),
    ):
        done = retort(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert message in done.stderr


def test_a_policy_is_given_as_a_setting():
    assert "incorrect" in retort("--gold", "1/3", "--pred", "0.33").stdout
    assert "verdict    correct" in retort("--gold", "1/3", "--pred", "0.33", "rounding_digits=2").stdout


def graded(folder, rows, capsys, answer_type="math"):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_pairs(path, answer_type, (), sys.stdout)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_references_that_are_data_or_booleans_are_compared_as_such(tmp_path, capsys):
    rows = [{"gold": {"a": [1]}, "pred": 'So {"a": [1.0]}.'}, {"gold": True, "pred": "true"}]
    assert [r["verdict"] for r in graded(tmp_path, rows, capsys, "json")] == ["correct", "correct"]
    assert [r["verdict"] for r in graded(tmp_path, rows[1:], capsys, "yes_no")] == ["correct"]


def test_numbers_count_as_they_are_written(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"gold": "0.10", "pred": 0.10}\n{"gold": 1e999, "pred": 7}\n{"gold": {"a": 1.50}, "pred": "{}"}\n'
    )
    out = io.StringIO()
    texts = [(gold, pred) for _, gold, pred in _pairs(path, "json")]
    assert texts == [("0.10", "0.10"), ("1e999", "7"), ('{"a": 1.50}', "{}")]
    grade_pairs(path, "json", (), out)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    assert [row["gold"] for row in rows] == ["0.10", "1e999", {"a": 1.5}]


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_invalid_json_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"gold": {name}, "pred": "7"}}\n')
    with pytest.raises(UserError, match=f"pairs.jsonl:1: not a JSON object in one line: {name} is not JSON"):
        grade_pairs(path, "math", ())


def test_a_closed_pipe_ends_quietly(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"gold": "1", "pred": "1"}\n' * 5000)
    command = [sys.executable, "-m", "pipeline", "verify", "--pairs", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b"correct" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0

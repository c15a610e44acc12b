"""What commands print in a terminal of 80 columns, and into a pipe; sorting, choosing and exporting rows."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import cli
from pipeline.errors import UserError
from tests.small_run import PROBLEMS, SAMPLES, SHARDS, write_run

TRACES = SHARDS * PROBLEMS * SAMPLES
EXAMPLES = SHARDS * PROBLEMS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "first")
    return folder


def retort(runs: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--runs", str(runs), *words], standalone_mode=False)


def in_terminal(columns: int, code: str) -> str:
    """What a Python program prints in a real terminal of this width."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(columns)}
        os.execv(sys.executable, [sys.executable, "-c", code])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    printed = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # the program has ended
            break
        if not read:
            break
        printed += read
    os.waitpid(pid, 0)
    os.close(terminal)
    return printed.decode()


def without_styles(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", text).replace("\r", "\n").split("\n")


def test_status_fits_80_columns_with_whole_names_and_coloured_outcomes(runs: Path) -> None:
    code = f"from pipeline.cli.main import cli; cli(['--runs', {str(runs)!r}, 'status', 'first'])"
    printed = in_terminal(80, code)
    assert "…" not in printed
    assert max(map(len, without_styles(printed))) <= 80
    assert "\x1b[32mkept\x1b[0m" in printed
    assert "\x1b[31mrejected\x1b[0m" in printed


def test_a_table_that_is_too_wide_is_continued_below_with_its_first_column() -> None:
    code = (
        "from rich.table import Table; from pipeline.inspect.show import print_grid\n"
        "t = Table('name', *('a column %d' % i for i in range(12)), box=None)\n"
        "t.add_row('evaluate/held_out', *('value %d' % i for i in range(12)))\n"
        "print_grid(t)"
    )
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", in_terminal(80, code))
    assert text.count("evaluate/held_out") == text.count("name") >= 2
    assert [text.count(f"value {i} ") for i in range(12)] == [1] * 12


def test_progress_keeps_counts_and_times_at_80_columns() -> None:
    code = (
        "from pipeline.engine.progress import Progress\n"
        "with Progress('generate', 4000) as p:\n"
        "    p.note = 'kept 43 % (49 filtered), 824 tokens/s, 32 in flight, 26 retries, 0.07 spent'\n"
        "    p.update(done=1160)"
    )
    last = [line for line in without_styles(in_terminal(80, code)) if line.strip()]
    shown = " ".join(last)
    assert "1160/4000" in shown
    assert re.search(r"0:00:0\d", shown)
    assert "kept 43 %" in shown
    assert max(map(len, last)) <= 80


def test_a_pipe_gets_whole_lines_without_blanks_at_their_ends(runs: Path) -> None:
    for words in (("status", "first"), ("why", "first"), ("show", "first"), ("diff", "first", "first")):
        lines = retort(runs, *words).stdout.splitlines()
        assert [line for line in lines if line != line.rstrip()] == [], words


def shown(runs: Path, *words: str) -> list[dict[str, Any]]:
    return [
        each["row"] for each in json.loads(retort(runs, "show", "first", "--json", *words).stdout)["rows"]
    ]


def test_rows_are_sorted_and_their_fields_chosen(runs: Path) -> None:
    longest = shown(runs, "--rejected", "--sort", "length", "-n", "4")
    lengths = [len(row["reasoning"] or "") + len(row["response"]) for row in longest]
    assert lengths == sorted(lengths, reverse=True)
    samples = [row["sample"] for row in shown(runs, "--sort=-sample", "-n", str(TRACES))]
    assert samples == sorted(samples)
    assert len(samples) == TRACES
    assert list(shown(runs, "--fields", "id,outcome")[0]) == ["id", "outcome"]
    assert "prompt_hash" not in retort(runs, "show", "first").stdout
    assert "prompt_hash" in retort(runs, "show", "first", "--long").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "first", "--kept", "--rejected"), "--kept and --rejected: give one of them"),
        (("show", "first", "--sort", "lenght"), "no such field"),
        (("show", "first", "--fields", "respons"), "did you mean 'response'?"),
        (("export", "first", "--to", "x.csv"), "must end in .jsonl"),
        (("export", "first", "--to", "no/such/x.jsonl"), "there is no folder no/such"),
        (("export", "first", "--to", "x.jsonl", "--kept"), "--kept is for --traces"),
        (("verify", "1"), "verify needs a reference and a response"),
    ],
)
def test_a_mistake_is_one_line(runs: Path, words: tuple[str, ...], message: str) -> None:
    error = retort(runs, *words).exception
    assert error is not None
    assert message in (error.format_message() if hasattr(error, "format_message") else str(error))


def test_export_writes_examples_or_traces_and_counts_them(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    assert f"{EXAMPLES} examples (" in retort(runs, "export", "first", "--to", str(path)).stdout
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == EXAMPLES
    assert rows[0]["messages"][0]["role"] == "user"
    before = path.read_bytes()
    assert isinstance(retort(runs, "export", "first", "--to", str(path)).exception, UserError)
    assert path.read_bytes() == before
    other = tmp_path / "traces.jsonl"
    said = retort(runs, "export", "first", "--to", str(other), "--traces", "--rejected").stdout
    assert f"{TRACES - EXAMPLES} traces ({TRACES - EXAMPLES} rejected)" in said
    assert {json.loads(line)["outcome"] for line in other.read_text().splitlines()} == {"rejected"}


def test_two_answers_are_graded_without_options(runs: Path) -> None:
    assert "verdict    correct" in retort(runs, "verify", "1/2", "0.5").stdout
    assert "verdict    correct" in retort(runs, "verify", "-1/2", "-0.5", "rounding_digits=2").stdout
    assert "verdict    incorrect" in retort(runs, "verify", "x = 3", "x = 4").stdout

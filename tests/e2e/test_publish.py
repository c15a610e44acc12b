"""A published folder loads without our code, states its origin, and contains no secret and no machine."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from filters.table import FILTERS
from pipeline.config import Recipe
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.publish import publish
from pipeline.stages import STAGES
from tests import published
from tests.e2e.runs import ROOT, retort
from tests.published import SECRET
from tests.stand_in_hub import Hub

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETORT_TEST_KEY", SECRET)
        run = published.make(tmp_path_factory.mktemp("publish"))
        published.add_student(run)
        published.add_scores(run)
        yield run


@pytest.fixture(scope="module")
def folder(run: Run) -> Path:
    target = run.path.parent / "out"
    written(run, target, with_traces=True)
    return target


def written(run: Run, target: object, with_traces: bool = False) -> None:
    publish(run, str(target), with_traces=with_traces, private=False)


def refusal(run: Run, target: object) -> str:
    with pytest.raises(UserError) as caught:
        written(run, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def on_the_shell(run: Run, hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": f"hf_{SECRET}", "HF_HUB_DISABLE_XET": "1"}
    return retort(run.path.parent, "publish", "test", "--to", "hub:me/sums", *words, env=env)


def elsewhere(code: str, cwd: Path) -> str:
    """The output of a program that can import installed packages but not our code."""
    prelude = """
import importlib.util, os, sys
sys.path[:] = [p for p in sys.path if p and not os.path.exists(os.path.join(p, "pipeline", "rows.py"))]
assert importlib.util.find_spec("pipeline") is None, "ours is in reach"
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_HOME": str(cwd / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_datasets_loads_the_folder_without_our_code(run: Run, folder: Path, tmp_path: Path) -> None:
    code = f"""
import json
from datasets import load_dataset
data = load_dataset({str(folder)!r})
traces = load_dataset({str(folder)!r}, "traces")
row = data["train"][0]
print(json.dumps({{
    "splits": {{name: len(rows) for name, rows in data.items()}},
    "features": data["train"].column_names,
    "row": row,
    "traces": {{name: len(rows) for name, rows in traces.items()}},
    "outcomes": traces["train"]["outcome"][:],
}}))
"""
    seen = json.loads(elsewhere(code, tmp_path).splitlines()[-1])
    assert seen["splits"] == Counter(example.split for example in run.examples)
    assert set(seen["splits"]) == {"train", "validation"}
    assert seen["traces"] == {"train": len(run.traces)}
    assert {"kept", "rejected"} <= set(seen["outcomes"])
    made_by = {"teacher", "sampling", "prompt_hash", "filters", "run", "recipe", "source", "seed"}
    assert made_by | {"messages", "question", "reference"} <= set(seen["features"])
    row = seen["row"]
    trace = next(trace for trace in run.traces if trace.id == row["id"])
    example = next(example for example in run.examples if example.id == row["id"])
    assert row["messages"] == [m.model_dump() for m in example.messages]
    assert (row["reasoning"], row["response"]) == (trace.reasoning, trace.response)
    passed = [f"{v.filter}@{v.version}".removeprefix(f"{run.path.parent}/") for v in trace.verdicts]
    assert row["filters"] == passed
    assert row["sampling"] == trace.sampling.model_dump()
    assert (row["run"], len(row["recipe"]), row["prompt_hash"]) == ("test", 16, trace.prompt_hash)


def test_every_example_is_published_once_in_order(run: Run, folder: Path) -> None:
    import pyarrow.parquet as pq

    for split in ("train", "validation"):
        (file,) = (folder / "data").glob(f"{split}-*")
        assert file.name == f"{split}-00000-of-00001.parquet"
        ids = pq.read_table(file)["id"].to_pylist()
        assert ids == [example.id for example in run.examples if example.split == split]


def test_the_student_loads_without_the_run(folder: Path, tmp_path: Path) -> None:
    code = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(folder / "student")!r})
tokenizer = AutoTokenizer.from_pretrained({str(folder / "student")!r})
print(model.config.model_type, bool(tokenizer.chat_template))
"""
    assert elsewhere(code, tmp_path).splitlines()[-1] == "llama True"


@pytest.mark.parametrize("name", ["README.md", "student/README.md"])
def test_a_card_parses_and_has_no_empty_section(folder: Path, name: str) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    card = (ModelCard if "student" in name else DatasetCard).load(folder / name)
    sections = re.split(
        r"^## ", re.sub(r"^(`{3,}).*?^\1$", "block", card.text, flags=re.M | re.S), flags=re.M
    )
    titles = [section.splitlines()[0] for section in sections[1:]]
    assert {"Evaluation", "Licences and terms"} <= set(titles)
    for section in sections:
        body = [line for line in section.splitlines()[1:] if line.strip()]
        assert body, section
        table = [line for line in body if line.startswith("|")]
        assert len(table) != 2, f"a table without rows: {section}"
    assert "None" not in card.text.replace("None was done", "")
    assert card.data.license == ["cc0-1.0", "mit"] if name == "README.md" else "unknown"


def test_the_card_contains_the_funnel_the_filters_the_prompt_and_the_scores(run: Run, folder: Path) -> None:
    text = (folder / "README.md").read_text()
    why = run.why()
    assert f"from {why.traces} traces" in text
    for name, count in why.rejected.items():
        reason = name.removeprefix(f"{run.path.parent}/")
        assert f"| rejected, {reason} | {count} |".replace("_", "\\_") in text
    assert f"| correct@{FILTERS['correct'].version} | defaults |" in text
    assert "You solve arithmetic problems." in text
    assert "<https://example.com/terms>" in text
    assert "the student minus base, paired by problem" in text
    assert "Sampled with temperature 0.6, top\\_p 0.95, max\\_tokens 512." in text
    assert "The examples were not compared with an evaluation set." in text
    assert "top\\_k | 20" in text
    assert "| my\\_rules.py:not\\_the\\_last@" in text
    assert "| rejected, my\\_rules.py:not\\_the\\_last: sample 3 |" in text
    training = (folder / "student" / "README.md").read_text()
    assert "| lora.rank | 16 |" in training
    assert "| logit\\_kd.teachers.0.model | big |" in training
    assert "| last\\_loss | 0.5 |" in training


def test_nothing_published_contains_a_secret_or_a_machine(run: Run, folder: Path) -> None:
    recipe = json.loads((run.path / "recipe.json").read_text())
    planted = [
        SECRET,
        str(run.path),
        str(run.path.parent),
        recipe["teacher"][0]["base_url"],
        socket.gethostname(),
    ]
    planted += [str(Path.home()) + "/", str(ROOT)]
    import pyarrow.parquet as pq

    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            rows = path.suffix == ".parquet"
            text = json.dumps(pq.read_table(path).to_pylist()) if rows else path.read_text()
            found = [word for word in planted if word in text]
            assert not found, f"{path} holds {found}"


def test_a_run_replaces_its_own_folder_and_no_other_files(run: Run, folder: Path) -> None:
    before = (folder / "data" / "train-00000-of-00001.parquet").read_bytes()
    written(run, folder, with_traces=True)
    assert (folder / "data" / "train-00000-of-00001.parquet").read_bytes() == before
    (folder / "notes.txt").write_text("mine")
    assert "holds notes.txt, which publish did not write" in refusal(run, folder)
    (folder / "notes.txt").unlink()
    strange = run.path.parent / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("mine")
    assert "was not written by publish" in refusal(run, strange)
    assert (strange / "thesis.tex").read_text() == "mine"
    (strange / "retort.json").write_text('{"run": "another", "files": ["thesis.tex"]}')
    assert "holds the run 'another', not 'test'" in refusal(run, strange)
    assert not list(run.path.parent.glob(".*unfinished")) + list(run.path.parent.glob(".*.old"))


def test_missing_licences_give_a_warning_and_are_shown_on_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = published.make(tmp_path, stated="")
    written(run, tmp_path / "out")
    said = capsys.readouterr().err
    assert "warning: teacher.licence is not stated" in said
    assert "warning: teacher.terms is not stated" in said
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| teacher fake | not stated | not stated |" in text
    assert "license: unknown" in text
    assert "## Evaluation" not in text
    assert not (tmp_path / "out" / "student").exists()


def test_a_licence_added_later_changes_no_stage(tmp_path: Path) -> None:
    run = published.make(tmp_path, stated="")
    given = run.recipe.model_dump(mode="json")
    given["teacher"][0] |= {"licence": "mit", "terms": "all is allowed"}
    given["ingest"]["sources"][0]["licence"] = "cc-by-4.0"
    later = Recipe.model_validate(given)
    for stage in published.NAMES:
        job = Job(STAGES[stage], later, run.path)
        manifest = run.output(stage).manifest()
        assert manifest is not None
        assert manifest_of(job).identity == manifest.identity


def test_a_student_of_older_examples_is_refused(run: Run) -> None:
    manifest = run.path / "train" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(whole) | {"inputs": {"select": "0" * 16}}))
    try:
        assert "select was made again after train" in refusal(run, run.path.parent / "late")
    finally:
        manifest.write_text(whole)


def test_the_hub_gets_data_set_and_student_and_no_token_is_printed(run: Run) -> None:
    with Hub() as hub:
        old = {"data/train-00000-of-00002.parquet": b"of an earlier time", ".gitattributes": b"theirs"}
        hub.files["datasets/me/sums"] = dict(old)
        done = on_the_shell(run, hub, "--private")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert hub.made == {"dataset me/sums", "model me/sums-student"}
    files = hub.files["datasets/me/sums"]
    assert {"README.md", "data/train-00000-of-00001.parquet"} <= set(files)
    assert not any(name.startswith("student/") for name in files)
    assert old.keys() & files.keys() == {".gitattributes"}
    student = hub.files["models/me/sums-student"]
    assert {"README.md", "config.json", "model.safetensors"} <= set(student)
    assert b"huggingface.co/datasets/me/sums" in student["README.md"]
    assert not any(SECRET.encode() in content for content in (*files.values(), *student.values()))
    assert hub.tokens == {f"Bearer hf_{SECRET}"}


def test_a_refusal_of_the_hub_is_reported_in_one_line(run: Run) -> None:
    with Hub(refuse=True) as hub:
        done = on_the_shell(run, hub)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("retort: hub:me/sums: ")
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("to", ["hub:sums", "hub:me/", "hub:../x", "hub:me/sums/more"])
def test_an_invalid_name_on_the_hub_is_refused(run: Run, to: str) -> None:
    assert "hub:owner/name" in refusal(run, to)

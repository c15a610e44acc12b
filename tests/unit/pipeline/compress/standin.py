"""A stand-in for the interpreter of [compress]: a program that is started with the same words and job files.

It "quantizes" by copying the student, and answers as the job's `path` says in replies.json, if that is there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.train.stage import model_folder
from tests import tiny_student

PROGRAM = """#!{python}
import json, pathlib, shutil, sys
words = [w for w in sys.argv[1:] if not w.startswith("-")]
if sys.argv[1] == "-I":
    print(json.dumps({{name: {versions}.get(name, "1.0") for name in sys.argv[4:]}}))
    sys.exit()
script, job = pathlib.Path(words[0]).stem, json.loads(pathlib.Path(words[1]).read_text())
with open("{calls}", "a") as calls:
    print(script, job.get("scheme", ""), file=calls)
behaviour = json.loads(pathlib.Path("{behaviour}").read_text())
if script in behaviour.get("fails", []):
    sys.exit("it broke")
if script.startswith("ask_"):
    reply = {{"prompt_ids": [1, 2, 3], "answer": "3", "answer_ids": [7, 2], "ended": True, "logprob": -0.1,
             "stops": True}}
    result = reply | (behaviour.get("reply", {{}}) if job["answer_ids"] else {{}})
else:
    out = pathlib.Path(job["out"])
    for file in pathlib.Path(job["model"]).iterdir():
        shutil.copy(file, out)
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {{"quant_method": "stand-in"}}
    config |= behaviour.get("config", {{}})
    (out / "config.json").write_text(json.dumps(config))
    genai = {{"model": {{"eos_token_id": behaviour.get("eos", 2)}}}}
    (out / "genai_config.json").write_text(json.dumps(genai))
    dialogues = pathlib.Path(job["calibration"]).read_text().splitlines() if job["calibration"] else None
    (out / "model.safetensors").chmod(0o600)
    result = {{"calibration_examples": dialogues and len(dialogues), "calibration_tokens": dialogues and 99}}
pathlib.Path(job["result"]).write_text(json.dumps(result))
"""
CONFIG = {"eos_token_id": 2, "bos_token_id": 1, "num_hidden_layers": 2}


def interpreter(folder: Path, missing: tuple[str, ...] = (), **behaviour: Any) -> Path:
    """The program; `behaviour`: fails (scripts), reply, config and eos of exports, as PROGRAM reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    behave(folder, **behaviour)
    python = folder / "python"
    versions = dict.fromkeys(missing)
    python.write_text(
        PROGRAM.format(
            python=os.path.realpath(sys.executable),
            versions=versions,
            calls=folder / "calls",
            behaviour=folder / "behaviour.json",
        )
    )
    python.chmod(0o755)
    return python


def behave(folder: Path, **behaviour: Any) -> None:
    (folder / "behaviour.json").write_text(json.dumps(behaviour))


def calls(folder: Path) -> list[str]:
    """The scripts that were started, with their schemes."""
    return [line.strip() for line in (folder / "calls").read_text().splitlines()]


def student(folder: Path) -> Path:
    """The files of a model folder, without usable weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    vocabulary = {"model": {"vocab": {"a": 3, "b": 4}}, "added_tokens": [{"id": 2, "content": "<|im_end|>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "chat_template.jinja").write_text(tiny_student.CHATML)
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    return folder


def recipe(python: Path | None = None, **compress: Any) -> Recipe:
    plain = tiny_student.recipe().model_dump(mode="json", exclude_defaults=True)
    plain["compress"] = compress | ({"python": str(python)} if python else {})
    return Recipe.model_validate(plain)


def job(run_dir: Path, python: Path, examples: int = 5, **compress: Any) -> Job:
    """The compress job of a run whose student is trained on this many examples."""
    from pipeline.compress.stage import COMPRESS
    from pipeline.train.stage import TRAIN

    given = recipe(python, **compress)
    rows = [tiny_student.example(n) for n in range(examples)]
    trained = tiny_student.train_job(given, run_dir, rows)
    trained.output.save(manifest_of(trained))
    trained.output.write("steps", [])
    trained.output.finish()
    if not model_folder(run_dir).exists():
        student(model_folder(run_dir))
    assert TRAIN in COMPRESS.reads
    return Job(COMPRESS, given, run_dir)

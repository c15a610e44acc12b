"""Usual benchmarks: where each is read from, and how its answers are graded.

`{ benchmark = "math500" }` stands for these settings wherever a recipe has a source. Each is read at the
commit `revision` of the hub, so that scores of different days are of the same problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UserError, nearest

_MATH = {"kind": "dataset", "answer_type": "math", "columns": []}
_CHOICE = {"kind": "dataset", "answer_type": "choice"}
BENCHMARKS: dict[str, dict[str, Any]] = {
    "aime24": _MATH
    | {
        "path": "HuggingFaceH4/aime_2024",
        "revision": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        "dataset_split": "train",
        "question": "problem",
    },
    "aime25": _MATH
    | {
        "path": "math-ai/aime25",
        "revision": "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        "dataset_split": "test",
        "question": "problem",
        "licence": "apache-2.0",
    },
    "math500": _MATH
    | {
        "path": "HuggingFaceH4/MATH-500",
        "revision": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        "dataset_split": "test",
        "question": "problem",
        "columns": ["subject", "level"],
    },
    "gsm8k": _MATH
    | {
        "path": "openai/gsm8k",
        "revision": "740312add88f781978c0658806c59bc2815b9866",
        "subset": "main",
        "dataset_split": "test",
        "licence": "mit",
    },
    "gpqa_diamond": _CHOICE
    | {
        "path": "Idavidrein/gpqa",
        "revision": "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        "subset": "gpqa_diamond",
        "dataset_split": "train",
        "question": "Question",
        "choices": ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
        "reference": "Correct Answer",
        "shuffle_choices": True,
        "columns": ["High-level domain", "Subdomain"],
        "licence": "cc-by-4.0",
    },
    "mmlu_pro": _CHOICE
    | {
        "path": "TIGER-Lab/MMLU-Pro",
        "revision": "b189ec765aa7ed75c8acfea42df31fdae71f97be",
        "dataset_split": "test",
        "choices": "options",
        "columns": ["category"],
        "licence": "mit",
    },
    "humaneval": {
        "kind": "dataset",
        "answer_type": "python",
        "path": "openai/openai_humaneval",
        "revision": "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        "dataset_split": "test",
        "question": "prompt",
        "question_template": "Complete this Python program. Answer with all of it, in one code block."
        "\n\n```python\n{{ question }}\n```",
        "tests": "test",
        "entry_point": "entry_point",
        "columns": ["task_id"],
        "licence": "mit",
    },
    "mbpp": {
        "kind": "dataset",
        "answer_type": "python",
        "path": "google-research-datasets/mbpp",
        "revision": "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        "subset": "sanitized",
        "dataset_split": "test",
        "question": "prompt",
        "question_template": "{{ question }}\n\nAnswer with a Python program, in one code block. It has to "
        "pass these tests:\n\n```python\n{{ test_list | join('\n') }}\n```",
        "tests": "test_list",
        "columns": ["task_id"],
        "licence": "cc-by-4.0",
    },
    "ifeval": {
        "kind": "dataset",
        "answer_type": "instructions",
        "path": "google/IFEval",
        "revision": "966cd89545d6b6acfd7638bc708b98261ca58e84",
        "dataset_split": "train",
        "question": "prompt",
        "columns": ["key"],
        "licence": "apache-2.0",
    },
}
_OF_THE_HUB = ("subset", "dataset_split", "revision")
_FILES = (".jsonl", ".json", ".csv", ".parquet", ".gz")


def expanded(given: Any) -> Any:
    """Returns a source with the settings of its `benchmark` filled in; anything else as it is.

    `path` is a local copy: a file or pattern, or a folder that the `datasets` library reads. Raises
    ValueError for an unknown name.
    """
    if not isinstance(given, dict) or given.get("benchmark") is None:
        return given
    name = str(given["benchmark"])
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {name!r}{nearest(name, BENCHMARKS)}")
    own = {key: value for key, value in given.items() if key != "benchmark" and value is not None}
    preset = {"name": name, "split": "held_out"} | BENCHMARKS[name]
    if "path" in own:
        preset = preset | {"revision": None}
        if Path(str(own["path"])).suffix in _FILES:
            preset = {k: v for k, v in preset.items() if k not in _OF_THE_HUB} | {"kind": "file"}
    return preset | own


def sets_of(text: str) -> list[dict[str, Any]]:
    """Returns the evaluation sets of `--problems`, such as "aime24,math500=copies/math500".

    Raises UserError for a name that is no benchmark.
    """
    sets: list[dict[str, Any]] = []
    for item in text.split(","):
        name, _, path = item.strip().partition("=")
        if name not in BENCHMARKS:
            raise UserError(f"--problems: no benchmark {name!r}{nearest(name, BENCHMARKS)}")
        sets.append({"benchmark": name} | ({"path": path} if path else {}))
    return sets

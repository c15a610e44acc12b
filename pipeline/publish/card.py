"""Writes the cards: YAML by the types of huggingface_hub, Markdown by the templates of this package.

Every text from a recipe is escaped, and empty sections are left out. A licence that the recipe does not name
is shown as not stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.inspect.format import count, estimate, interval, megabytes, percent, share, speed
from pipeline.model_rows import CompressedModel, ExportFormat
from pipeline.publish.dataset import TRAIN, VALIDATION, Written
from pipeline.publish.facts import NOT_STATED, Facts, Licensed, on_the_hub, public_rule

if TYPE_CHECKING:
    from jinja2 import Environment

_LIBRARIES: dict[ExportFormat, str] = {"hf": "transformers", "gguf": "gguf", "onnx": "onnxruntime-genai"}
TEMPLATES = Path(__file__).parent / "templates"
# Names on the hub (huggingface.co/docs/hub/repositories-licenses); any other licence is "other"
LICENCES = frozenset((TEMPLATES / "licences.txt").read_text("utf-8").split())
SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7))


def of_dataset(facts: Facts, rows: Written) -> str:
    """Returns the data set's README.md."""
    from huggingface_hub import DatasetCardData

    total = sum(rows.splits.values())
    data = DatasetCardData(
        license=hub_licence([*facts.teachers, *facts.sources]),
        task_categories=["text-generation"],
        size_categories=[next((name for name, most in SIZES if total < most), "n>10M")],
        tags=["reasoning", "chain-of-thought", "distillation", "synthetic", "retort"],
        configs=_configs(rows),
        pretty_name=facts.run,
    )
    return _card(data, "dataset.md", facts, rows=rows)


def of_student(facts: Facts, rows: Written, training: dict[str, str], name: str | None) -> str:
    """Returns the student's README.md; `name`: its data set on the hub."""
    from huggingface_hub import ModelCardData

    assert facts.student is not None, "a student is trained"
    licence: Any = hub_licence([facts.student, *facts.teachers])  # typed as one, may be several
    data = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=facts.student.name if on_the_hub(facts.student.name) else None,
        datasets=[name] if name else None,
        tags=["reasoning", "distillation", "trl", "retort"],
    )
    served = {"repository": f"{name}-student" if name else None, "format": "hf", "compressed": False}
    return _card(data, "student.md", facts, rows=rows, training=training, name=name, row=None, **served)


def of_compressed(facts: Facts, row: CompressedModel, name: str | None, has_modelfile: bool) -> str:
    """Returns the README.md of a compressed student; `name`: the run's data set on the hub."""
    from huggingface_hub import ModelCardData

    assert facts.student is not None, "only a student is compressed"
    licence: Any = hub_licence([facts.student, *facts.teachers])  # typed as one, may be several
    whole = f"{name}-student" if name else None
    base = facts.student.name if on_the_hub(facts.student.name) else None
    data = ModelCardData(
        license=licence,
        library_name=_LIBRARIES[row.format],
        pipeline_tag="text-generation",
        base_model=whole or base,
        base_model_relation="quantized" if whole or base else None,
        datasets=[name] if name else None,
        tags=["reasoning", "distillation", row.format, row.id, "retort"],
    )
    served = {"repository": f"{whole}-{row.id}" if whole else None, "format": row.format, "compressed": True}
    served |= {"file": Path(row.path).name, "modelfile": has_modelfile, "ollama": facts.run.lower()}
    return _card(data, "compressed.md", facts, row=row, name=name, **served)


def hub_licence(parts: Iterable[Licensed]) -> str | list[str]:
    """The licence for the hub: all of them, or "unknown" if one is not stated."""
    stated = [part.licence for part in parts]
    if not all(stated):
        return "unknown"
    names = {name.strip().lower() for licence in stated if licence for name in licence.split(",")}
    known = sorted({name if name in LICENCES else "other" for name in names})
    return known[0] if len(known) == 1 else known


def _configs(rows: Written) -> list[dict[str, Any]]:
    splits = [
        {"split": split, "path": f"data/{split}-*"} for split in (TRAIN, VALIDATION) if rows.splits[split]
    ]
    configs: list[dict[str, Any]] = [{"config_name": "default", "data_files": splits, "default": True}]
    if rows.traces:
        configs.append({"config_name": "traces", "data_files": [{"split": TRAIN, "path": "traces/train-*"}]})
    return configs


def _card(data: Any, template: str, facts: Facts, **more: Any) -> str:
    text = _templates().get_template(template).render(facts=facts, not_stated=NOT_STATED, **more)
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: texts of a recipe go through md or fenced
    )
    environment.filters |= {"md": md, "fenced": fenced, "count": count, "rule": public_rule}
    environment.filters |= {"percent": percent, "interval": interval, "estimate": estimate}
    environment.filters |= {"megabytes": megabytes, "share": share, "speed": speed}
    return environment


def md(text: object) -> str:
    """Escapes a text for Markdown, also inside a table; a URL stays a link."""
    line = " ".join(str(text).split())
    if re.fullmatch(r"https?://[\w./?=&%#~+:,-]+", line):
        return f"<{line}>"
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", line)


def fenced(text: str) -> str:
    """A code block with this text, whatever fences the text holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"

"""What a run records of its stages: recipe.json, and a line of events.jsonl for each attempt."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import TABLES, Recipe
from pipeline.config.redaction import redact
from pipeline.engine import checksums
from pipeline.engine.atomic_files import append, write_atomic
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.rows import Row


class Event(Row):
    """One attempt at a stage that has ended."""

    stage: str
    ended: str
    seconds: float
    exit_code: int
    rows: int
    failed: int


def recipe_record(job: Job) -> bytes:
    """The content of recipe.json: each table as the stage that owns it was made, or else as given now.

    Raises UserError if the given tables contradict the recorded ones, or the file is damaged.
    """
    tables: dict[str, Any] = redact(job.recipe.model_dump(mode="json"))
    with suppress(FileNotFoundError, ValueError):
        data = checksums.read(job.run_dir / "recipe.json")
        recorded = Recipe.model_validate_json(data).model_dump(mode="json")
        for stage, owned in TABLES.items():
            if stage != job.stage.name and (job.run_dir / stage / "manifest.json").exists():
                tables |= {name: recorded[name] for name in owned}
    try:
        Recipe.model_validate(tables)
    except ValidationError as e:
        why = e.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{job.run_dir}: the recipe contradicts what is already made: {why}") from None
    return checksums.document(json.dumps(tables, indent=2).encode())


def write_recipe(run_dir: Path, record: bytes) -> None:
    path = run_dir / "recipe.json"
    if not path.exists() or path.read_bytes() != record:
        write_atomic(path, record)


def append_event(job: Job, code: int, seconds: float) -> None:
    """Appends the end of an attempt."""
    counts = job.output.counts()
    event = Event(
        stage=job.stage.name,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        exit_code=code,
        rows=counts.rows,
        failed=counts.failed,
    )
    append(job.run_dir / "events.jsonl", checksums.line(json.dumps(event.model_dump()).encode()))


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Every attempt at every stage. Lines that are torn or damaged are left out."""
    path, events = run_dir / "events.jsonl", []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        with suppress(ValueError):
            events.append(Event.model_validate(checksums.parse(line)).model_dump())
    return events

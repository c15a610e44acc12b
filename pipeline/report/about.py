"""The parts of a report on the run itself: settings, stages with their inputs, cost and time, preflight."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pipeline.config.redaction import redact
from pipeline.engine.layout import ROWS
from pipeline.generate import usage
from pipeline.inference.pruning import pruning_of
from pipeline.inspect.costs import costs, spend_per_kept, total_spend
from pipeline.inspect.failures import counts_of
from pipeline.inspect.run import Run
from pipeline.inspect.score_table import sampling_of
from pipeline.report import charts
from pipeline.train.job import Preflight, read_preflight

_GENERATE = ("prompt", "samples", "temperature", "top_p", "max_tokens", "target_kept")
_TRAIN = ("objective", "epochs", "learning_rate", "schedule", "batch_size", "max_length", "order", "trl")


def settings(run: Run) -> list[tuple[str, str]]:
    """The most important settings, without anything private."""
    recipe = run.recipe
    student = recipe.student.model if recipe.student else "none"
    pruning = pruning_of(recipe.student) if recipe.student else None
    layers = f", pruned to {pruning.words}" if pruning else ""
    lora = f", LoRA of rank {recipe.train.lora.rank}" if recipe.train.lora else ""
    chosen = {
        "sources": ", ".join(str(s.name or getattr(s, "path", "")) for s in recipe.ingest.sources),
        "teacher": ", ".join(t.display_name for t in recipe.teacher) or "none",
        "traces": _listed(recipe.generate.model_dump(), _GENERATE)
        if recipe.samples_problems
        else "given by the sources",
        "rules": ", ".join(recipe.filter.rules),
        "student": f"{student}{layers}{lora}",
        "training": _listed(recipe.train.model_dump(), _TRAIN),
        "evaluation": _listed(sampling_of(run), ("samples", "temperature", "top_p", "max_tokens")),
        "seed": str(recipe.seed),
    }
    missing = [f"{n:,} rows of {name} were missing" for name, n in run.partial("filter").items()]
    chosen |= {"partial": ", ".join(missing)} if missing else {}
    return [(name, redact(value)) for name, value in chosen.items()]


def _listed(table: dict[str, Any], names: Collection[str]) -> str:
    chosen = {name: value for name, value in table.items() if name in names and value not in (None, {})}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items())


def stages(run: Run) -> list[dict[str, Any]]:
    """A row for each stage: state, counts, seconds over all attempts, its end, content id and inputs."""
    seconds = run.seconds()
    ended = {event["stage"]: event["ended"] for event in run.events()}
    rows = []
    for name, counts in counts_of(run).items():
        manifest = run.output(name).manifest()
        rows.append(
            {
                "name": name,
                "main": name in ROWS,
                "state": run.state(name) if manifest else "-",
                "rows": counts.rows,
                "failed": counts.failed,
                "shards": f"{counts.sealed}/{counts.shards}" if counts.shards else "-",
                "seconds": seconds.get(name),
                "ended": ended.get(name, "").replace("T", " ").removesuffix("+00:00"),
                "content": manifest.content_id if manifest and manifest.digests is not None else "",
                "inputs": ", ".join(f"{k} {v}" for k, v in manifest.inputs.items()) if manifest else "",
            }
        )
    return rows


def cost(run: Run, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens, spend, requests and retries of generate; seconds of the stages, as `stages()` gives them."""
    parts = costs(run)
    requests, retries = usage.count_requests(usage.read_attempts(run.output("generate").folder))
    seconds = [{"name": s["name"], "value": s["seconds"]} for s in stages if s["seconds"] and s["main"]]
    return {
        "rows": [part.model_dump() | {"per_kept": part.per_kept} for part in parts],
        "spend": total_spend(parts),
        "per_kept": spend_per_kept(parts),
        "completion_tokens": sum(part.completion_tokens or 0 for part in parts),
        "uncounted": sum(part.uncounted for part in parts),
        "requests": requests,
        "retries": retries,
        "chart": charts.bars(seconds, "seconds", ",.0f") if seconds else None,
    }


def preflight(run: Run) -> Preflight | None:
    """The checks before the first training step."""
    return read_preflight(run.output("train").folder / "preflight.json")

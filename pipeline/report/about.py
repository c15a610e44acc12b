"""What a run was and what it took: settings, stages with their lineage, cost and time, the preflight."""

from __future__ import annotations

from typing import Any

from pipeline.config.redaction import shareable
from pipeline.generate import usage
from pipeline.inspect.costs import costs
from pipeline.inspect.run import ROWS, Run
from pipeline.report import charts
from pipeline.train.job import Preflight, read_preflight

_DRAWN = ("prompt", "samples", "temperature", "top_p", "max_tokens", "target_kept")
_TRAINED = ("objective", "epochs", "learning_rate", "schedule", "batch_size", "max_length", "order")


def settings(run: Run) -> list[tuple[str, str]]:
    """The settings that people ask for first."""
    recipe, table = run.recipe, run.recipe.generate
    drawn = {
        name: value for name, value in table.model_dump().items() if value is not None and name in _DRAWN
    }
    train = {name: value for name, value in recipe.train.model_dump().items() if name in _TRAINED}
    student = recipe.student.model if recipe.student else "none"
    layers = f", {recipe.student.layers} layers of it" if recipe.student and recipe.student.layers else ""
    lora = f", LoRA of rank {recipe.train.lora.rank}" if recipe.train.lora else ""
    evaluate = recipe.evaluate
    said = [
        ("sources", ", ".join(str(s.name or getattr(s, "path", "")) for s in recipe.ingest.sources)),
        ("teacher", ", ".join(t.display_name for t in recipe.teacher)),
        ("traces", _said(drawn)),
        ("rules", ", ".join(recipe.filter.rules)),
        ("student", f"{student}{layers}{lora}"),
        ("training", _said(train)),
        (
            "evaluation",
            f"{evaluate.samples} samples at temperature {evaluate.temperature:g}, top-p {evaluate.top_p:g}, "
            f"{evaluate.max_tokens:,} tokens at most",
        ),
        ("seed", str(recipe.seed)),
    ]
    return [(name, shareable(value)) for name, value in said]


def _said(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def stages(run: Run) -> list[dict[str, Any]]:
    """A line a stage: state, counts, seconds over all tries, when it ended, and what its output is called."""
    seconds = run.seconds()
    ended = {event["stage"]: event["ended"] for event in run.events()}
    lines = []
    for name, counts in run.counts().items():
        output = run.output(name)
        manifest = output.manifest()
        lines.append(
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
    return lines


def cost(run: Run, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What it has cost; `lines`: those of stages()."""
    rows = [cost.model_dump() | {"per_kept": cost.per_kept} for cost in costs(run)]
    requests, retries = usage.asked(usage.read(run.output("generate").folder))
    seconds = [{"name": s["name"], "value": s["seconds"]} for s in lines if s["seconds"] and s["main"]]
    return {
        "rows": rows,
        "requests": requests,
        "retries": retries,
        "chart": charts.bars(seconds, "seconds", ",.0f") if seconds else None,
    }


def preflight(run: Run) -> Preflight | None:
    """What was looked at before the first step."""
    return read_preflight(run.output("train").folder / "preflight.json")

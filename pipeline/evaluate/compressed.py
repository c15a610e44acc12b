"""What compression cost: quality, greedy agreement and bytes of each compressed student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.compress import serving
from pipeline.compress.models import compressed_models
from pipeline.engine.layout import OutputPath
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.evaluate import metrics
from pipeline.evaluate.models import EvalModel
from pipeline.generate.sample_plan import FAILED
from pipeline.inference import model_files
from pipeline.model_rows import Score
from pipeline.rows import Trace


def report(job: Job, models: Sequence[EvalModel], scores: Sequence[Score]) -> dict[str, Any]:
    """The manifest's part on compressed students; {} for a recipe without schemes."""
    schemes = job.recipe.compress.schemes
    if not schemes:
        return {}
    reasons = {scheme: why for scheme in schemes if (why := serving.cannot_serve(scheme))}
    return {
        "compressed": [c.model_dump(mode="json") for c in metrics.compressed(scores)],
        "greedy_agreement": {
            f"{model.set}/{model.role}": _agreement(job.run_dir, model) for model in models if model.scheme
        },
        "bytes": _bytes(job, models),
        "not_evaluated": reasons,
    }


def _agreement(run_dir: Path, model: EvalModel) -> dict[str, int]:
    """On how many problems that both answered the greedy answers have the same text."""
    own, whole = (_greedy(run_dir, model.set, role) for role in (model.role, "student"))
    both = own.keys() & whole.keys()
    return {"same": sum(own[id] == whole[id] for id in both), "problems": len(both)}


def _greedy(run_dir: Path, set_name: str, role: str) -> dict[str, tuple[str | None, str, str]]:
    """Problem id -> reasoning, response and finish reason of the greedy answer."""
    rows = Output(run_dir / str(OutputPath("greedy", set_name, role)), Trace).rows()
    return {
        t.problem_id: (t.reasoning, t.response, t.finish_reason) for t in rows if t.finish_reason != FAILED
    }


def _bytes(job: Job, models: Sequence[EvalModel]) -> dict[str, int]:
    """Role -> bytes: of all files of student and compressed students, of other models' weights if known."""
    exports = compressed_models(job.run_dir)
    found = {f"{metrics.COMPRESSED}{row.id}": row.bytes for row in exports}
    found |= {"student": exports[0].whole_bytes} if exports else {}
    others = {model.role: model for model in models if not model.trained and model.endpoint.serve}
    sizes = {role: _weights(model) for role, model in others.items()}
    return found | {role: size for role, size in sizes.items() if size is not None}


def _weights(model: EvalModel) -> int | None:
    """The bytes of a model's weights; None if it is not here any more."""
    try:
        path = model_files.existing(model.weights, model.pruning)
    except UserError:
        return None
    return model_files.weights(path)[0] if path else None

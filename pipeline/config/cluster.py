"""[ray]: how many workers a stage gets on a Ray cluster, and what each of them needs."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from pipeline.config.base import NotIdentity, RecipeTable


class Workers(RecipeTable):
    """The workers of one stage."""

    replicas: PositiveInt | None = None
    """Number of workers. Default: one that asks models, or else one for each core of the cluster."""
    gpus: NonNegativeFloat = 0
    """GPUs of each worker, as many as its vLLM uses: tensor x pipeline x data parallel size."""
    cpus: PositiveFloat = 1
    """Cores of each worker."""


class Ray(RecipeTable):
    generate: NotIdentity[Workers] = Workers()
    """Workers that sample traces. Each starts a vLLM of its own, or all share the servers of `base_url`."""
    filter: NotIdentity[Workers] = Workers()
    """Workers that apply the filters, and those that ask the LLM judge."""
    select: NotIdentity[Workers] = Workers()
    """Workers that make training examples."""
    train: NotIdentity[Workers | None] = None
    """Machines that train together: `replicas` of them, each with these GPUs. Default: training runs where
    the command runs."""
    compress: NotIdentity[Workers] = Workers(replicas=1)
    """Workers that compress the student, each with a whole model in its memory."""
    evaluate: NotIdentity[Workers] = Workers()
    """Workers that sample the models under evaluation."""

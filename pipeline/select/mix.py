"""Mixes further examples into the shards of select: plain responses and other chat data.

Which problems are taught without reasoning, and which dialogues are sampled, follows from hashes of their ids
and the recipe's seed. So shards are made independently, and the same inputs give the same rows.

`prepare` reads the chat data once. It drops what cannot be learned or would leak, and samples an upper bound
of what is needed: the dialogues with the lowest hashes. Each shard gets a slice in proportion to the examples
that it can have, and takes as many as its examples need.
"""

from __future__ import annotations

import heapq
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.mix import ChatMix
from pipeline.config.select import Select
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.filter.apply import contamination_index
from pipeline.ingest.sources import name_of, problem_id
from pipeline.ingest.stage import INGEST
from pipeline.rows import Example, Message
from pipeline.select import chat_data
from pipeline.select.chat_data import Dialogue
from pipeline.select.chat_format import position, split_of

BATCH = 1000  # dialogues compared with evaluation sets at once


@dataclass(frozen=True)
class Sampled:
    """The chat data that was sampled before any shard."""

    folder: Path  # holds a JSON list of dialogues for each shard and set: "SHARD-NAME.json"
    tallies: dict[str, dict[str, int]] = field(default_factory=dict)  # set -> what became of its rows
    checked: str = ""  # what the dialogues were compared with


def is_plain(problem: str, select: Select, seed: int) -> bool:
    """Whether the examples of a problem are taught without reasoning."""
    kept_share = 1 - sum(mix.share or 0 for mix in select.chats)
    return position("plain", problem, seed) < select.plain_share / kept_share


def prepare(job: Job) -> Sampled | None:
    """Samples the dialogues of every [[select.mix]] with kind = "chat"; None if there is none."""
    select = job.recipe.select
    if not select.chats:
        return None
    shards = job.output.shards()
    most = [_most_examples(job.input_shard(shard, "filter"), select.per_problem) for shard in shards]
    sampled = Sampled(job.output.folder / "mix", {}, _what_is_checked(job.recipe))
    sampled.folder.mkdir(exist_ok=True)
    seen: set[str] = set()
    for mix in select.chats:
        tally: Counter[str] = Counter()
        wanted = mix.count or math.ceil(sum(most) * _ratio(mix, select))
        dialogues = _sample(mix, job, wanted, seen, tally)
        for shard, part in zip(shards, _slices(dialogues, most), strict=True):
            content = json.dumps([[m.model_dump() for m in each] for each in part])
            write_atomic(_file(sampled, shard, mix), content.encode())
        sampled.tallies[mix.name] = dict(tally)
    return sampled


def chat_examples(
    sampled: Sampled | None, shard: Shard, examples: int, recipe: Recipe, counts: Counter[str]
) -> Iterator[Example]:
    """Yields the dialogues that a shard with this many other examples gets; counts those wanted and taken."""
    if sampled is None:
        return
    for mix in recipe.select.chats:
        dialogues = json.loads(_file(sampled, shard, mix).read_bytes())
        wanted = len(dialogues)
        if mix.share:
            # The rounding of small shards evens out over all of them
            wanted = int(examples * _ratio(mix, recipe.select) + position("round", shard.name, recipe.seed))
        taken = dialogues[:wanted]
        counts[f"wanted {mix.name}"] += wanted
        counts[f"taken {mix.name}"] += len(taken)
        yield from (_example(mix, [Message.model_validate(m) for m in each], recipe) for each in taken)


def report(sampled: Sampled | None, select: Select, counts: Mapping[str, int]) -> dict[str, Any]:
    """What became of the rows of each set, and what they were compared with; {} without chat data.

    Called when all shards are sealed, so it removes the slices.
    """
    if sampled is None:
        return {}
    shutil.rmtree(sampled.folder, ignore_errors=True)
    sets = {
        mix.name: sampled.tallies[mix.name]
        | {"wanted": mix.count or counts[f"wanted {mix.name}"], "taken": counts[f"taken {mix.name}"]}
        for mix in select.chats
    }
    return {"chat_sets": sets, "chat_checked_against": sampled.checked}


def _example(mix: ChatMix, messages: Sequence[Message], recipe: Recipe) -> Example:
    problem = _problem_of(messages)
    return Example(
        id=chat_data.dialogue_id(tuple(messages)),
        problem_id=problem,
        source=mix.name,
        teacher=mix.name,
        split=split_of(problem, recipe),
        pass_rate=None,
        confidence=None,
        tokens=None,
        messages=tuple(messages),
        kind="chat",
    )


def _problem_of(messages: Sequence[Message]) -> str:
    """The id that ingest gives to the last question."""
    return problem_id(next(m.content for m in reversed(messages) if m.role == "user"))


def _ratio(mix: ChatMix, select: Select) -> float:
    """Examples of a set for each example that is made from a kept trace."""
    return (mix.share or 0) / (1 - sum(other.share or 0 for other in select.chats))


def _most_examples(verdicts: Shard, per_problem: int) -> int:
    """An upper bound of the examples that the kept traces of a shard can become."""
    kept = Counter(
        problem for problem, outcome in verdicts.values("problem_id", "outcome") if outcome == "kept"
    )
    return sum(min(count, per_problem) for count in kept.values())


def _slices(dialogues: Sequence[Dialogue], weights: Sequence[int]) -> Iterator[Sequence[Dialogue]]:
    """Splits the dialogues into one part for each weight, in proportion to it."""
    done, total, ends = 0, max(1, sum(weights)), [0]
    for weight in weights:
        done += weight
        ends.append(round(len(dialogues) * done / total))
    yield from (dialogues[start:end] for start, end in pairwise(ends))


def _file(sampled: Sampled, shard: Shard, mix: ChatMix) -> Path:
    return sampled.folder / f"{shard.name}-{mix.name}.json"


def _sample(mix: ChatMix, job: Job, wanted: int, seen: set[str], tally: Counter[str]) -> list[Dialogue]:
    """The usable dialogues with the lowest hashes, at most `wanted`, in the order of their hashes."""
    usable = _usable(mix, job, seen, tally)
    ranked = ((position("chat", id, job.recipe.seed), id, messages) for id, messages in usable)
    return [messages for _, _, messages in heapq.nsmallest(wanted, ranked, key=lambda each: each[:2])]


def _usable(mix: ChatMix, job: Job, seen: set[str], tally: Counter[str]) -> Iterator[tuple[str, Dialogue]]:
    """Yields the dialogues that may be learned; counts all rows by what became of them."""
    held_out = _held_out_problems(job)
    index = contamination_index(job.recipe.filter)
    batch: list[tuple[str, Dialogue]] = []
    for found in _distinct(mix, seen, held_out, tally):
        batch.append(found)
        if len(batch) == BATCH:
            yield from _clean(batch, index, tally)
            batch = []
    yield from _clean(batch, index, tally)


def _distinct(
    mix: ChatMix, seen: set[str], held_out: set[str], tally: Counter[str]
) -> Iterator[tuple[str, Dialogue]]:
    for row in chat_data.read(mix):
        tally["rows"] += 1
        if isinstance(row, str):
            tally[row] += 1
        elif (id := chat_data.dialogue_id(row)) in seen:
            tally["same_text"] += 1
        elif held_out and any(problem_id(m.content) in held_out for m in row if m.role == "user"):
            tally["held_out_problem"] += 1
        else:
            seen.add(id)
            yield id, row


def _clean(
    batch: Sequence[tuple[str, Dialogue]], index: Any, tally: Counter[str]
) -> Iterator[tuple[str, Dialogue]]:
    """Yields the dialogues that share no n-gram with an evaluation set."""
    texts = [message.content for _, messages in batch for message in messages]
    found = iter(index.matches(texts) if index and texts else [None] * len(texts))
    for id, messages in batch:
        matches = [next(found) for _ in messages]
        if any(match is not None for match in matches):
            tally["contaminated"] += 1
        else:
            tally["usable"] += 1
            yield id, messages


def _held_out_problems(job: Job) -> set[str]:
    shards = INGEST.output(job.run_dir).shards()
    return {id for shard in shards for id, split in shard.values("id", "split") if split == "held_out"}


def _what_is_checked(recipe: Recipe) -> str:
    sets = recipe.filter.contamination.against if recipe.filter.contamination else ()
    named = ", ".join(name_of(source) for source in sets)
    return (
        f"held-out problems (same question), {named} (n-grams)"
        if named
        else "held-out problems (same question)"
    )

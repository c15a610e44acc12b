"""Takes a few training examples, evenly spaced, to measure or calibrate a model on."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.engine.store import Output
from pipeline.errors import UserError


def chosen(examples: Output, most: int, split: str = "train") -> Iterator[list[dict[str, str]]]:
    """Yields the messages of at most `most` examples of a split, evenly spaced over all shards."""
    shards = [(shard, shard.column("split")) for shard in examples.shards()]
    total = sum(splits.count(split) for _, splits in shards)
    if not total and split == "train":
        raise UserError("there is no training example to calibrate on: run `retort select` first")
    wanted = {i * total // most for i in range(most)} if total > most else set(range(total))
    number = 0
    for shard, splits in shards:
        here = splits.count(split)
        if wanted.isdisjoint(range(number, number + here)):
            number += here
            continue
        for record in shard.records(("split", "messages")):
            if record["split"] != split:
                continue
            if number in wanted:
                yield record["messages"]
            number += 1

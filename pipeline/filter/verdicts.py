"""Joins traces with the verdicts on them: a filter stage stores verdicts alone, and generate the traces.

A shard of verdicts has the name of its shard of traces and the same rows in the same order. So one pass over
both is enough, and memory holds a batch of traces.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from pipeline.arrow_schema import arrow_schema
from pipeline.engine.shard import BATCH_ROWS, Shard
from pipeline.errors import UserError
from pipeline.rows import VERDICT_FIELDS, Trace, TraceVerdicts

if TYPE_CHECKING:
    import pyarrow as pa


def filtered_traces(traces: Shard, verdicts: Shard) -> Iterator[Trace]:
    """Yields every trace of a shard with its verdicts."""
    for batch in filtered_batches(traces, verdicts):
        for start in range(0, len(batch), BATCH_ROWS):
            yield from map(Trace.model_validate, batch.slice(start, BATCH_ROWS).to_pylist())


def filtered_batches(
    traces: Shard, verdicts: Shard, leave_out: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Yields the traces of a shard with their verdicts, without the columns in `leave_out`.

    Raises UserError if the verdicts are on other traces.
    """
    import pyarrow as pa

    joined = [name for name in VERDICT_FIELDS if name not in leave_out]
    schema = pa.schema([field for field in arrow_schema(TraceVerdicts) if field.name in ("id", *joined)])
    stored = pa.Table.from_batches(verdicts.batches(TraceVerdicts.model_fields.keys() - schema.names), schema)
    done = 0
    for batch in traces.batches({*leave_out, *VERDICT_FIELDS} - {"id"}):
        some = stored.slice(done, len(batch))
        done += len(batch)
        if some["id"].to_pylist() != batch["id"].to_pylist():
            break
        columns = {name: batch[name] for name in batch.schema.names}
        columns |= {name: some[name].combine_chunks() for name in joined}
        names = [name for name in Trace.model_fields if name in columns]
        yield pa.record_batch([columns[name] for name in names], names)
    else:
        if done == len(stored):
            return
    raise UserError(
        f"{verdicts.path} holds verdicts on other traces than {traces.path}: run `retort filter` again"
    )

"""What the page asks of a run: values to filter by, a page of traces, one trace, a problem with its samples.

Sorting, filtering, searching and paging are DuckDB's, over the columns that they name. Only the traces of one
page become Python objects, whatever the size of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from pipeline.engine.query import SHARD
from pipeline.errors import UserError
from pipeline.inspect.diff import score_diffs
from pipeline.inspect.run import Run
from pipeline.report import sample
from pipeline.rows import FilterOutcome
from pipeline.select.marks import MARKS, Marked, Noted, read_marks, text_hash
from pipeline.view.table import Viewed, ViewedTrace, viewed

FACETS = ("outcome", "reason", "source", "teacher", "finish_reason", "split", "mark")
VALUES = 500  # most values of a facet to choose from
PAGE, MOST = 50, 500  # traces in a page
MOST_SAMPLES = 64  # of a problem, side by side
_BRIEF = ("id", "problem_id", "outcome", "reason", "source", "teacher", "completion_tokens", "split", "mark")
SORTABLE = [name for name in ViewedTrace.model_fields if name not in ("verdicts", "sampling", "logprobs")]
_FACTS = (
    *("sample", "seed", "prompt", "prompt_tokens", "continuations", "reasoning_logprob", "response_logprob"),
    *("columns", "characters", "split", "pass_rate", "surprisal", "ratio", "naturalness"),
    "student_pass_rate",
)
_TEXTS = ("id", "problem_id", "question", "reference", "reasoning", "response")
_CONTAINS = f"contains(lower(concat_ws(chr(10), {', '.join(_TEXTS)})), lower(${{name}}))"
_VERDICT = "len(list_filter(verdicts, lambda v: v.filter = $rule and v.outcome = $verdict)) > 0"


class Wanted(BaseModel):
    """The traces that the page shows, as its address has them."""

    model_config = ConfigDict(extra="forbid")
    run: NonNegativeInt = 0
    stage: str = "filter"
    outcome: str | None = None
    reason: str | None = None
    source: str | None = None
    teacher: str | None = None
    finish_reason: str | None = None
    split: str | None = None
    mark: str | None = None
    rule: str | None = None
    verdict: FilterOutcome = "failed"  # of `rule`
    min_tokens: NonNegativeInt | None = None
    max_tokens: NonNegativeInt | None = None
    where: str | None = None  # a condition of SQL over the fields
    q: str = ""  # words that must all occur, in any order; "a phrase" in quotes is one word
    sort: str = ""  # a field; "": in the order of the run
    down: bool = False
    at: NonNegativeInt = 0  # the first of the traces to show
    id: str = ""  # of a trace, or of a problem
    shard: str | None = None  # of a trace, if that is known
    limit: Annotated[PositiveInt, Field(le=MOST)] = PAGE


def about(runs: Sequence[Run]) -> dict[str, Any]:
    """The runs with their stages; of two also each model's pass@1 in both, with the paired difference."""
    scores = [score.model_dump() for score in score_diffs(*runs)] if len(runs) == 2 else []
    named = [{"name": run.name, "path": str(run.path), "stages": _stages(run)} for run in runs]
    return {"runs": named, "columns": SORTABLE, "page": PAGE, "scores": scores}


def _stages(run: Run) -> list[str]:
    """The filter stages whose traces can be shown: of the training data, and of evaluated models."""
    begun = [str(path.sibling("filter")) for path in run.begun("generate")]
    return ["filter", *dict.fromkeys(begun)]


def facets(run: Run, stage: str) -> dict[str, Any]:
    """The values of each facet with their numbers of traces, and what is going on."""
    sets = ", ".join(f"({name})" for name in FACETS)
    query = (
        f"select grouping({', '.join(FACETS)}), coalesce({', '.join(FACETS)}), count(*) from rows "
        f"group by grouping sets ({sets}) order by 3 desc, 2"
    )
    found: dict[str, list[list[Any]]] = {name: [] for name in FACETS}
    for absent, value, traces in viewed(run, stage).query(FACETS, query):
        name = FACETS[f"{absent:0{len(FACETS)}b}".index("0")]
        if value and len(found[name]) < VALUES:
            found[name].append([value, traces])
    made_by = (stage.removesuffix("filter") + "generate", stage)
    return {
        "values": found,
        "total": sum(traces for _, traces in found["outcome"]),
        "rules": list(run.report(stage).get("rules") or run.recipe.filter.rules),
        "running": [name for name in made_by if run.output(name).busy],
    }


def page(run: Run, wanted: Wanted) -> list[dict[str, Any]]:
    """The traces of one page, in short."""
    table, order = narrowed(run, wanted), f"{SHARD}, id"
    if wanted.sort:
        if wanted.sort not in SORTABLE:
            raise UserError(f"sort: there is no column {wanted.sort!r}")
        order = f"{wanted.sort} {'desc' if wanted.down else 'asc'} nulls last, {order}"
    columns = dict.fromkeys(("id", SHARD, wanted.sort or "id"))
    query = f"select id, {SHARD}, {wanted.sort or 'null'} from rows order by {order} limit $limit offset $at"
    places = table.query(list(columns), query, limit=wanted.limit, at=wanted.at)
    brief = {trace["id"]: trace for trace in _read(viewed(run, wanted.stage), places, (*_BRIEF, "question"))}
    return [
        brief[id] | {"question": brief[id]["question"][:200], SHARD: shard, "sorted_by": value}
        for id, shard, value in places
    ]


def count(run: Run, wanted: Wanted) -> int:
    return len(narrowed(run, wanted))


def trace(run: Run, wanted: Wanted) -> dict[str, Any]:
    """One trace, whole. Raises UserError if there is none."""
    table = viewed(run, wanted.stage)
    table = table.within({wanted.shard}) if wanted.shard else table
    found = list(_whole(run, wanted.stage, table.where(id=wanted.id), 1))
    if not found:
        raise UserError(f"{run.path}: {wanted.stage} has no trace {wanted.id!r}")
    return found[0]


def with_text(run: Run, line: Marked | Noted) -> Marked | Noted:
    """A mark with a hash of its trace's text, a note as it is. Raises UserError if there is no such trace."""
    columns = ("reasoning", "response")
    found = viewed(run, "filter").where(id=line.trace).query(columns, "select reasoning, response from rows")
    if not found:
        raise UserError(f"{run.path}: there is no trace {line.trace!r}")
    return line.model_copy(update={"text": text_hash(*found[0])}) if isinstance(line, Marked) else line


def problem(runs: Sequence[Run], wanted: Wanted) -> list[dict[str, Any]]:
    """For each run: the samples of a problem in this stage, and the scores of models for it."""
    return [
        {
            "samples": list(
                _whole(run, wanted.stage, viewed(run, wanted.stage).where(problem_id=wanted.id), MOST_SAMPLES)
            ),
            "scores": [
                {"set": s.set, "model_role": s.model_role, "correct": s.correct, "samples": s.samples}
                for s in run.scores.where(problem_id=wanted.id)
            ],
        }
        for run in runs
    ]


def narrowed(run: Run, wanted: Wanted) -> Viewed:
    """The traces that meet all conditions of the page."""
    table = viewed(run, wanted.stage)
    given = {name: value for name in FACETS if (value := getattr(wanted, name)) is not None}
    table = table.where(*([wanted.where] if wanted.where else []), **given)
    if wanted.rule:
        table = table.narrowed(_VERDICT, rule=wanted.rule, verdict=wanted.verdict)
    if wanted.min_tokens is not None:
        table = table.narrowed("completion_tokens >= $min_tokens", min_tokens=wanted.min_tokens)
    if wanted.max_tokens is not None:
        table = table.narrowed("completion_tokens <= $max_tokens", max_tokens=wanted.max_tokens)
    for number, word in enumerate(words_of(wanted.q)):
        table = table.narrowed(_CONTAINS.format(name=f"word{number}"), **{f"word{number}": word})
    return table


def words_of(text: str) -> list[str]:
    """The words of a search; "a phrase" in quotes is one. trace.js reads a search in the same way."""
    return [phrase or word for phrase, word in re.findall(r'"([^"]+)"?|(\S+)', text)]


def _whole(run: Run, stage: str, table: Viewed, most: int) -> Iterator[dict[str, Any]]:
    places = table.query(("id", SHARD), f"select id, {SHARD} from rows order by all limit $most", most=most)
    columns = tuple(dict.fromkeys((*sample.COLUMNS, *_FACTS, "mark", "note")))
    marks = read_marks(run.path / MARKS)
    for row in _read(viewed(run, stage), places, columns):
        facts = {name: row[name] for name in _FACTS if row[name] is not None}
        counts = row["mark"] and marks[row["id"]].counts_on(row["reasoning"], row["response"])
        mark = row["mark"] if counts else None
        yield sample.shown(stage, row, {}) | {"facts": facts, "mark": mark, "note": row["note"]}


def _read(table: Viewed, places: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of the traces at (id, shard, ...), in their order."""
    found = table.within({place[1] for place in places}).where(id=[place[0] for place in places])
    rows = {row["id"]: row for batch in found.batches(columns) for row in batch.to_pylist()}
    return [rows[place[0]] for place in places]

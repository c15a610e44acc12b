"""How different the traces of a run are from each other, and whether they are less so than another run's.

Models that learn from models over generations first lose what is rare (Shumailov et al. 2023, arXiv
2305.17493), so correct answers alone do not show it. Measured on a sample of bounded size: at most SHARDS
shards, PROBLEMS problems, SAMPLES traces of each, and the first CHARACTERS of a trace. Two runs are compared
on the problems of both, with equally many traces of each: all of these measures depend on the amount of text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from filters.dataset.majority import vote
from filters.text.normalize import normalize_words
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate
from pipeline.inspect.run import Run, open_run
from pipeline.rows import Row, Trace

SHARDS, PROBLEMS, SAMPLES, CHARACTERS = 16, 512, 4, 4000
LEAST = 20  # problems, for a warning
LESS = 0.9  # of the parent's share of distinct n-grams; below, a warning
_WORD = re.compile(r"\w+|[^\w\s]")
_READ = ("problem_id", "id", "outcome", "answer_type", "reference", "reasoning", "response", "finish_reason")
_IDS = "select problem_id from rows group by 1 order by md5(problem_id) limit $most"
_TRACES = """
with short as (
    select problem_id, id, outcome = 'kept' as kept, left(concat_ws(' ', reasoning, response), $most) as said,
        length(concat_ws(' ', reasoning, response)) as characters, answer_type, reference,
        right(response, $most) as response, finish_reason
    from rows where finish_reason <> 'failed'
)
select * exclude (id) from short
qualify row_number() over (partition by problem_id, kept order by id) <= $samples
order by problem_id, id
"""


class Diversity(Row):
    """None where nothing can be measured, such as the similarity of single traces."""

    problems: int
    traces: int
    distinct_1: (
        float | None
    )  # distinct words / words, over one trace of each problem (Li et al. 2015, 1510.03055)
    distinct_2: float | None  # the same of pairs of neighbouring words
    self_similarity: float | None  # mean share of common word triples of two traces of a problem (Jaccard)
    answer_entropy: float | None  # mean entropy of the final answers to a problem, in bits
    characters: float | None  # mean length


class Change(Row):
    """A measure in two runs, on the same problems."""

    traces: str  # "all" or "kept"
    measure: str
    problems: int
    a: float
    b: float
    difference: Estimate | None  # b - a: mean, low, high; None for a measure of all problems together
    less_diverse: bool  # in b, by more than chance


class RunDiversity(Row):
    all: Diversity
    kept: Diversity | None  # None before filtering
    parent: str | None  # the run whose student is the teacher or base here, or whose traces are reused
    changes: tuple[Change, ...] = ()  # from the parent to this run


class _Text(NamedTuple):
    kept: bool
    words: tuple[str, ...]
    characters: int
    answer: str | None


class _Values(NamedTuple):
    """The measures of one problem."""

    self_similarity: float | None
    answer_entropy: float | None
    characters: float


_Traces = Mapping[str, Sequence[_Text]]  # by problem


def diversity_of(run: Run) -> RunDiversity | None:
    """The diversity of a run's traces; None while there are none."""
    if not (ids := _problems(run)):
        return None
    traces, parent = _traces(run, ids), parent_of(run)
    filtered = bool(run.report("filter"))
    return RunDiversity(
        all=_measured(_first(traces, kept=False)),
        kept=_measured(_first(traces, kept=True)) if filtered else None,
        parent=parent.name if parent else None,
        changes=tuple(changes(parent, run)) if parent and filtered else (),
    )


def parent_of(run: Run) -> Run | None:
    """The run before it in a chain, or whose student is its teacher or base, or whose traces it reuses."""
    recipe = run.recipe
    models = [teacher.model for teacher in recipe.teacher] + (
        [recipe.student.model] if recipe.student else []
    )
    folders = [run.path.parent / recipe.parent.run] if recipe.parent else []
    folders += [path.parents[1] for path in map(Path, models) if path.parts[-2:] == ("train", "model")]
    folders += [run.path.parent / recipe.reuse] if recipe.reuse else []
    found = (f for f in folders if (f / "recipe.json").exists() and f.absolute() != run.path.absolute())
    return next((open_run(folder) for folder in found), None)


def changes(a: Run, b: Run) -> Iterator[Change]:
    """Yields each measure of both runs, on the problems that both have."""
    ids = _problems(b)
    of_a, of_b = _traces(a, ids), _traces(b, ids)
    for name, kept in (("kept", True), ("all", False)):
        yield from _changes(name, _first(of_a, kept), _first(of_b, kept))


def lines(found: RunDiversity) -> Iterator[str]:
    """The numbers, and a warning where they fell."""
    for name, measured in (("kept", found.kept), ("all", found.all)):
        if measured and measured.traces:
            numbers = ", ".join(f"{label} {text(measured, field)}" for field, label in LABELS.items())
            of = f"{measured.traces:,} traces of {measured.problems:,} problems"
            yield f"diversity of {name} traces: {numbers} ({of})"
    for each in found.changes:
        if each.less_diverse:
            yield f"warning: less diverse than {found.parent}: {sentence(each)}"


LABELS = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "self_similarity": "self-similarity",
    "answer_entropy": "bits of answer entropy",
    "characters": "characters",
}
_BETTER = {"self_similarity": -1, "answer_entropy": 1}  # the direction of more diversity


def text(each: Diversity | None, field: str) -> str:
    """A measure for people."""
    return _number(getattr(each, field) if each else None, field)


def _number(value: float | None, field: str) -> str:
    return "-" if value is None else f"{value:,.0f}" if field == "characters" else f"{value:.3f}"


def sentence(c: Change) -> str:
    """A change in words."""
    field = next(field for field, label in LABELS.items() if label == c.measure)
    said = f"{c.measure} of {c.traces} traces {_number(c.a, field)} -> {_number(c.b, field)}"
    if c.difference:
        said += ", 95 % from {:+.3g} to {:+.3g}".format(*c.difference[1:])
    return f"{said}, over {c.problems} problems of both"


def _problems(run: Run) -> list[str]:
    """The ids of some problems with traces, from shards that are evenly spaced."""
    parts = run.traces.parts
    read = min(SHARDS, len(parts))
    some = replace(run.traces, parts=[parts[i * len(parts) // read] for i in range(read)])
    return [id for (id,) in some.query(("problem_id",), _IDS, most=PROBLEMS)]


def _traces(run: Run, ids: Sequence[str]) -> _Traces:
    rows = run.traces.where(problem_id=ids).located()
    found: dict[str, list[_Text]] = {}
    for id, kept, said, length, *about in rows.query(_READ, _TRACES, most=CHARACTERS, samples=SAMPLES):
        words = tuple(_WORD.findall(said.lower()))
        found.setdefault(id, []).append(_Text(kept, words, length, _answer(*about)))
    return found


def _answer(kind: str, reference: str | None, response: str, finish_reason: str) -> str | None:
    """The final answer, in a form that spellings share; None if there is none."""
    trace = Trace.model_construct(
        answer_type=kind, reference=reference, response=response, finish_reason=finish_reason
    )
    answer = vote(trace)
    return None if answer is None else normalize_words(answer)


def _first(traces: _Traces, kept: bool) -> _Traces:
    """The first traces of each problem: of the kept ones, or of all."""
    chosen = {id: [t for t in each if t.kept or not kept][:SAMPLES] for id, each in traces.items()}
    return {id: each for id, each in chosen.items() if each}


def _measured(traces: _Traces) -> Diversity:
    values = [_values(each) for each in traces.values()]
    means = {
        field: fmean(known) if (known := [v for v in column if v is not None]) else None
        for field, column in zip(_Values._fields, zip(*values, strict=True), strict=False)
    }
    return Diversity(
        problems=len(traces),
        traces=sum(map(len, traces.values())),
        distinct_1=_distinct(traces, 1),
        distinct_2=_distinct(traces, 2),
        **{field: means.get(field) for field in _Values._fields},
    )


def _values(traces: Sequence[_Text]) -> _Values:
    triples = [set(_grams(t.words, 3)) for t in traces]
    shares = [len(a & b) / len(a | b) for a, b in combinations(triples, 2) if a | b]
    return _Values(
        fmean(shares) if shares else None,
        _entropy([t.answer for t in traces if t.answer is not None]),
        fmean(t.characters for t in traces),
    )


def _entropy(answers: Sequence[str]) -> float | None:
    """Shannon's entropy in bits; None for fewer than two answers."""
    if len(answers) < 2:
        return None
    return sum(n / len(answers) * math.log2(len(answers) / n) for n in Counter(answers).values())


def _distinct(traces: _Traces, n: int) -> float | None:
    grams = Counter(gram for each in traces.values() for gram in _grams(each[0].words, n))
    return len(grams) / total if (total := grams.total()) else None


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _changes(name: str, a: _Traces, b: _Traces) -> Iterator[Change]:
    if not (both := [id for id in b if id in a]):
        return
    sizes = {id: min(len(a[id]), len(b[id])) for id in both}
    of_a, of_b = ({id: each[id][: sizes[id]] for id in both} for each in (a, b))
    enough = len(both) >= LEAST
    for n in (1, 2):
        before, now = _distinct(of_a, n), _distinct(of_b, n)
        if before is not None and now is not None:
            less = enough and now < LESS * before
            yield Change(
                traces=name, measure=LABELS[f"distinct_{n}"], problems=len(both), a=before, b=now,
                difference=None, less_diverse=less,
            )  # fmt: skip
    values = [(_values(of_a[id]), _values(of_b[id])) for id in both]
    for field in _Values._fields:
        pairs = [(getattr(x, field), getattr(y, field)) for x, y in values]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if not known:
            continue
        most = max(max(pair) for pair in known)
        estimate = bootstrap.mean([y - x for x, y in known], least=-most, most=most)
        toward = sorted(_BETTER.get(field, 0) * end for end in estimate[1:])
        yield Change(
            traces=name, measure=LABELS[field], problems=len(known), a=fmean(x for x, _ in known),
            b=fmean(y for _, y in known), difference=estimate,
            less_diverse=len(known) >= LEAST and toward[1] < 0,
        )  # fmt: skip

"""Which traces of an earlier result are valid under the present settings, and how they are stored then.

A trace depends on its question, its teacher, the prompt and the sampling settings. The number of samples, the
other problems and teachers, and the filters may change: a run that has grown has the rows of a run that was
made at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.engine.earlier_rows import EarlierRows, results
from pipeline.engine.manifest import Manifest, settings_difference
from pipeline.engine.stage import Job
from pipeline.generate.given_traces import is_given
from pipeline.generate.sample_plan import FAILED, trace_id
from pipeline.generate.sampler import GENERATION
from pipeline.rows import Problem, Question, Trace

TRACE_KEY = ("problem_id", "teacher", "sample")  # identifies a trace whatever the teacher's position is
_MAY_CHANGE = ("samples", "target_kept", "max_samples", "rules")


def contradiction(found: Manifest, wanted: Manifest) -> str:
    """The first setting that makes traces of `found` invalid, as "temperature: 0.6 -> 0.9"; "" if none does.

    A teacher that the recipe no longer names is no contradiction.
    """
    if not (_teachers(found) and _teachers(wanted)):  # without samples there is nothing to contradict
        return ""
    return _difference(found, wanted)


def _difference(found: Manifest, wanted: Manifest) -> str:
    names = _teachers(found).keys() & _teachers(wanted).keys()
    before, now = (_that_matter(manifest, names) for manifest in (found, wanted))
    # More continuations go on where a trace was truncated, fewer would have truncated it before
    if before.get("max_continuations", 0) <= now.get("max_continuations", 0):
        before["max_continuations"] = now["max_continuations"] = None
    return settings_difference(before, now)


def earlier_traces(job: Job) -> EarlierRows | None:
    """The traces of earlier results that are valid under the job's settings; None if there are none."""
    wanted = job.output.manifest()
    assert wanted is not None
    valid = []
    for output, found in results(job):
        if moved := _positions(found, wanted):
            valid.append((output, partial(_moved, moved, _stated(found), _stated(wanted))))
        else:
            why = _difference(found, wanted) or "they are of other teachers"
            job.say(f"{job.stage.name}: no trace in {output.folder} is valid: {why}")
    return EarlierRows("problem_id", valid) if valid else None


def for_problems(
    earlier: EarlierRows, problems: Mapping[str, Problem], render: Callable[[Question], Any]
) -> Iterator[Trace]:
    """Yields the earlier traces of these problems, with reference and source as they are now.

    Leaves out those whose prompt would be another one now.
    """
    for trace in earlier.of(problems):
        fields = problems[trace.problem_id].model_dump(include=set(Question.model_fields))
        now = trace.model_copy(update=fields)
        if now == trace or render(now) == render(trace):
            yield now


def _stated(manifest: Manifest) -> list[int | None]:
    """The generations that the recipe states, by the position of the teacher."""
    return [each.get(GENERATION) for each in manifest.settings["teachers"]]


def _moved(
    positions: Mapping[int, int], before: Sequence[int | None], now: Sequence[int | None], trace: Trace
) -> Trace | None:
    """The trace under its teacher's present position; None if the teacher is gone or never answered.

    A trace that a source gave is None, too: ingest has those that are still given.

    The outcome is that of filters, so it is not taken over. The generation is as stated now, and
    unknown if it was stated before and is not any more.
    """
    if is_given(trace.id):
        return None
    position = int(trace.id.split("-")[-2])
    teacher = positions.get(position)
    if teacher is None or trace.finish_reason == FAILED:
        return None
    id = trace_id(trace.problem_id, teacher, trace.sample)
    stated = now[teacher]
    changed = (
        {} if stated == before[position] else {"teacher_generation": None if stated is None else str(stated)}
    )
    return trace.model_copy(update={"id": id, "outcome": "unfiltered", **changed})


def _positions(found: Manifest, wanted: Manifest) -> dict[int, int]:
    """Position in the earlier list of teachers -> position now, of the teachers whose traces are valid."""
    if _difference(_without_teachers(found), _without_teachers(wanted)):
        return {}
    now = _teachers(wanted)
    order = list(now)
    return {
        i: order.index(name)
        for i, (name, settings) in enumerate(_teachers(found).items())
        if name in now and not settings_difference(settings, now[name])
    }


def _that_matter(manifest: Manifest, names: Collection[str]) -> dict[str, Any]:
    """The settings that a trace of the teachers `names` depends on."""
    settings = {key: value for key, value in manifest.settings.items() if key not in _MAY_CHANGE}
    settings["teachers"] = {name: each for name, each in _teachers(manifest).items() if name in names}
    return settings


def _teachers(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Name -> settings of each teacher that change its responses."""
    return {
        each["name"]: {key: value for key, value in each.items() if key not in ("share", GENERATION)}
        for each in manifest.settings["teachers"]
    }


def _without_teachers(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"settings": manifest.settings | {"teachers": []}})

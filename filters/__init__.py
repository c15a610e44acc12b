"""Filters: plain functions over a trace, and the one table that names them.

To add a filter:

1. Write a function `my_filter(trace, *, limit: int = 100) -> FilterResult` in a file of this folder. It says
   `passed()`, `failed("short_code")` or `undecided("short_code")` (`filters.result`), with evidence where
   there is some. Parameters are keyword-only, with a type and a default; a recipe says `my_filter = true`
   under `[filter.rules]`, or sets them under `[filter.rules.my_filter]`. Raising counts as "cannot tell".
2. Add a line to FILTERS below. Raise its version whenever a trace might be judged otherwise than before.
3. Add cases to `tests/cases/filters.jsonl`: what must pass, and the near miss that must not.

A filter sees one trace, and imports of ours only `pipeline.rows`, `pipeline.errors` and this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from filters import limits
from filters.result import FilterResult, failed, passed, undecided
from filters.rules.consistency import consistency
from filters.rules.correct import correct
from filters.rules.format import final_answer, finished, single_reasoning
from filters.rules.language import one_language
from filters.rules.layout import no_code, paragraphs
from filters.rules.leak import no_leak
from filters.rules.length import confidence, length
from filters.rules.refusal import no_refusal
from filters.rules.repetition import no_repetition
from pipeline.errors import Stopped, UserError, nearest

if TYPE_CHECKING:  # pydantic takes a third of the time that judging a thousand answers takes
    from pipeline.rows import FilterOutcome, Outcome, Trace, Verdict

__all__ = [
    "FILTERS",
    "Filter",
    "FilterResult",
    "as_verdict",
    "check_rules",
    "decide",
    "failed",
    "judge",
    "passed",
    "undecided",
    "verdicts_on",
    "versions",
]

Rules = Mapping[str, Mapping[str, Any]]  # filter name -> its parameters


class Filter(NamedTuple):
    function: Callable[..., FilterResult]
    version: int  # part of a filter stage's identity and of every verdict


FILTERS: dict[str, Filter] = {
    "finished": Filter(finished, 2),
    "single_reasoning": Filter(single_reasoning, 2),
    "final_answer": Filter(final_answer, 4),
    "correct": Filter(correct, 5),
    "length": Filter(length, 1),
    "one_language": Filter(one_language, 3),
    "paragraphs": Filter(paragraphs, 3),
    "no_code": Filter(no_code, 2),
    "no_repetition": Filter(no_repetition, 2),
    "no_refusal": Filter(no_refusal, 2),
    "no_leak": Filter(no_leak, 2),
    "consistency": Filter(consistency, 3),
    "confidence": Filter(confidence, 1),
}


_BY_COUNTS = frozenset(("finished", "length", "confidence"))  # these say enough of a text of any size


def judge(trace: Trace, rules: Rules) -> Trace:
    """The trace with the verdict of every named filter, and kept only if all of them pass."""
    verdicts = tuple(verdicts_on(trace, rules))
    outcome, reason = decide(verdicts)
    return trace.model_copy(update={"verdicts": verdicts, "outcome": outcome, "reason": reason})


def verdicts_on(
    trace: Trace, rules: Rules, known: Mapping[str, FilterResult] = MappingProxyType({})
) -> Iterator[Verdict]:
    """What every named filter says of the trace; `known`: of filters that need not be asked."""
    for name, parameters in rules.items():
        if name in known:
            yield as_verdict(name, FILTERS[name].version, known[name])
        else:
            yield _verdict(trace, name, parameters)


def decide(verdicts: Iterable[Verdict]) -> tuple[Outcome, str]:
    """Rejected if one fails, else unknown if one cannot tell; and the first that said so."""
    reasons: dict[FilterOutcome, str] = {}
    for v in verdicts:
        reasons.setdefault(v.outcome, f"{v.filter}: {v.reason}")
    if "failed" in reasons:
        return "rejected", reasons["failed"]
    return ("undecided", reasons["undecided"]) if "undecided" in reasons else ("kept", "")


def versions(rules: Rules) -> dict[str, dict[str, Any]]:
    """The rules with their versions: all that decides what they say of a trace."""
    return {name: {"version": FILTERS[name].version, **given} for name, given in rules.items()}


def check_rules(rules: Rules) -> None:
    """Raise UserError, one line, for an unknown filter or for a parameter it does not take."""
    from pydantic import TypeAdapter, ValidationError

    for name, parameters in rules.items():
        if name not in FILTERS:
            raise UserError(f"filter.rules: unknown filter {name!r}{nearest(name, FILTERS)}")
        known = _parameters(FILTERS[name].function)
        for key, value in parameters.items():
            where = f"filter.rules.{name}"
            if key not in known:
                raise UserError(f"{where}: unknown parameter {key!r}{nearest(key, known)}")
            try:
                TypeAdapter(known[key]).validate_python(value, strict=True)
            except ValidationError as e:
                raise UserError(f"{where}.{key}: {e.errors()[0]['msg']} (found {value!r})") from None
        _check_bounds(name, parameters)


def _check_bounds(name: str, parameters: Mapping[str, Any]) -> None:
    """Raise UserError where a least value is more than the greatest, either given or the default."""
    defaults = {p.name: p.default for p in inspect.signature(FILTERS[name].function).parameters.values()}
    values = defaults | dict(parameters)
    for least in (key for key in values if key.startswith("min_")):
        most = f"max_{least.removeprefix('min_')}"
        if most in values and values[least] > values[most]:
            raise UserError(
                f"filter.rules.{name}: {least} = {values[least]} is more than {most} = {values[most]}"
            )


def _verdict(trace: Trace, name: str, parameters: Mapping[str, Any]) -> Verdict:
    function, version = FILTERS[name]
    if name not in _BY_COUNTS and len(trace.reasoning or "") + len(trace.response) > limits.TEXT:
        return as_verdict(name, version, undecided("too_long"))
    try:
        with limits.processor_seconds(limits.SECONDS):
            finding = function(trace, **parameters)
    except limits.TooSlow:
        finding = undecided("too_slow")
    except (Stopped, UserError):  # no checking process, no sandbox: that says nothing of the trace
        raise
    except (OSError, MemoryError) as e:  # nor does what this machine has no room for just now
        raise Stopped(f"{name} on trace {trace.id}: {str(e) or 'not enough memory'}") from e
    except Exception as e:  # noqa: BLE001 - the one boundary where a filter's failure becomes data
        finding = undecided("raised", f"{type(e).__name__}: {e}")
    return as_verdict(name, version, finding)


def as_verdict(name: str, version: int, finding: FilterResult) -> Verdict:
    from pipeline.rows import Verdict

    return Verdict(
        filter=name,
        version=version,
        outcome=finding.outcome,
        reason=finding.reason,
        evidence=finding.evidence,
    )


def _parameters(function: Callable[..., FilterResult]) -> dict[str, Any]:
    """Name -> type of the keyword-only parameters."""
    from pipeline.rows import Trace

    types = get_type_hints(function, localns={"Trace": Trace}, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: types[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}

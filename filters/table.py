"""The table of filters, and the functions that check rules and apply them to a trace.

To add a filter:

1. Write `my_filter(trace, *, limit: int = 100) -> FilterResult` in `filters/rules/`. It returns `passed()`,
   `failed("short_code")` or `undecided("short_code")`, with evidence where there is some. Parameters are
   keyword-only, with a type and a default. A recipe enables the filter with `my_filter = true` under
   `[filter.rules]`, or sets parameters under `[filter.rules.my_filter]`.
2. Add a line to FILTERS. Raise its version whenever a trace might get another verdict than before.
3. Add cases to `tests/cases/filters.jsonl`: traces that must pass, and near misses that must not.

A filter of the user's own needs no line here: a recipe names its file or module, see `filters/own.py`.

A filter sees one trace. Of `pipeline` it imports only `rows` and `errors`. A filter that raises an exception
leaves the trace undecided.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from filters import limits, own
from filters.result import FilterResult, undecided
from filters.rules.columns import columns
from filters.rules.consistency import consistency
from filters.rules.correct import correct
from filters.rules.format import final_answer, finished, single_reasoning
from filters.rules.language import one_language
from filters.rules.layout import no_code, paragraphs
from filters.rules.leak import no_leak
from filters.rules.length import confidence, length
from filters.rules.refusal import no_refusal
from filters.rules.repetition import no_repetition
from pipeline import shipped
from pipeline.errors import Stopped, UserError, nearest
from pipeline.rows import FilterOutcome, Outcome, Trace, Verdict

Rules = Mapping[str, Mapping[str, Any]]  # filter name -> its parameters


class FilterSpec(NamedTuple):
    function: Callable[..., FilterResult]
    version: int  # stored with every verdict, and part of a filter stage's identity


FILTERS: dict[str, FilterSpec] = {
    "finished": FilterSpec(finished, 2),
    "single_reasoning": FilterSpec(single_reasoning, 2),
    "final_answer": FilterSpec(final_answer, 6),
    "correct": FilterSpec(correct, 9),
    "length": FilterSpec(length, 2),
    "one_language": FilterSpec(one_language, 3),
    "paragraphs": FilterSpec(paragraphs, 3),
    "no_code": FilterSpec(no_code, 2),
    "no_repetition": FilterSpec(no_repetition, 2),
    "no_refusal": FilterSpec(no_refusal, 3),
    "no_leak": FilterSpec(no_leak, 2),
    "consistency": FilterSpec(consistency, 6),
    "confidence": FilterSpec(confidence, 1),
    "columns": FilterSpec(columns, 2),
}

_ANY_SIZE = frozenset(
    ("finished", "length", "confidence", "columns")
)  # fast and meaningful on text of any size


def spec_of(name: str) -> FilterSpec:
    """Returns a filter of the table, or of the user's own. Raises UserError for an unknown one."""
    if name in FILTERS:
        return FILTERS[name]
    if ":" in name:
        return FilterSpec(*own.load(name))
    raise UserError(f"filter.rules: unknown filter {name!r}{nearest(name, FILTERS)}")


def apply_rules(trace: Trace, rules: Rules) -> Trace:
    """Returns the trace with one verdict per rule and the outcome of all of them."""
    verdicts = tuple(verdicts_of(trace, rules))
    outcome, reason = decide(verdicts)
    return trace.model_copy(update={"verdicts": verdicts, "outcome": outcome, "reason": reason})


def verdicts_of(
    trace: Trace, rules: Rules, known: Mapping[str, FilterResult] = MappingProxyType({})
) -> Iterator[Verdict]:
    """Yields one verdict per rule; for filters in `known`, that result instead of applying the filter."""
    for name, parameters in rules.items():
        result = known[name] if name in known else _apply(name, trace, parameters)
        yield as_verdict(name, spec_of(name).version, result)


def decide(verdicts: Iterable[Verdict], ignored: Collection[str] = ()) -> tuple[Outcome, str]:
    """Outcome of a trace and its reason: rejected if a rule failed, else undecided if one is, else kept.

    `ignored`: filters whose verdicts do not count.
    """
    reasons: dict[FilterOutcome, str] = {}
    for v in verdicts:
        if v.filter not in ignored:
            reasons.setdefault(v.outcome, f"{v.filter}: {v.reason}")
    if "failed" in reasons:
        return "rejected", reasons["failed"]
    return ("undecided", reasons["undecided"]) if "undecided" in reasons else ("kept", "")


def with_versions(rules: Rules) -> dict[str, dict[str, Any]]:
    """The rules with their filters' versions: everything that determines their verdicts."""
    return {name: {"version": spec_of(name).version, **given} for name, given in rules.items()}


def check_rules(rules: Rules) -> None:
    """Raises UserError for an unknown filter, a parameter that is unknown or missing, or a wrong type."""
    check_names(rules)
    for name, parameters in rules.items():
        types = _parameter_types(spec_of(name).function)
        for key, value in parameters.items():
            where = f"filter.rules.{name}"
            if key not in types:
                raise UserError(f"{where}: unknown parameter {key!r}{nearest(key, types)}")
            try:
                TypeAdapter(types[key]).validate_python(value, strict=True)
            except ValidationError as e:
                raise UserError(f"{where}.{key}: {_must(e)} (found {value!r})") from None
        _check_bounds(name, parameters)
        _check_required(name, parameters)


def check_names(names: Iterable[str]) -> None:
    """Raises UserError for an unknown filter, or one of the user's own that cannot be loaded."""
    for name in names:
        spec_of(name)


def _must(error: ValidationError) -> str:
    return error.errors()[0]["msg"].replace("Input should be", "must be")


def _check_bounds(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises UserError where a minimum exceeds its maximum, defaults included."""
    defaults = {p.name: p.default for p in inspect.signature(spec_of(name).function).parameters.values()}
    values = defaults | dict(parameters)
    for low in (key for key in values if key.startswith("min_")):
        high = f"max_{low.removeprefix('min_')}"
        if high in values and values[low] > values[high]:
            raise UserError(
                f"filter.rules.{name}: {low} = {values[low]} is more than {high} = {values[high]}"
            )


def _check_required(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises UserError where a parameter without a default is not given."""
    for p in inspect.signature(spec_of(name).function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in parameters:
            page = shipped.page("filters.md")
            raise UserError(f"filter.rules.{name} needs the parameter {p.name!r}, see {page}")


def _apply(name: str, trace: Trace, parameters: Mapping[str, Any]) -> FilterResult:
    """Applies one filter within the limits of `filters.limits`; its exception becomes an undecided result."""
    if name not in _ANY_SIZE and len(trace.reasoning or "") + len(trace.response) > limits.TEXT:
        return undecided("too_long")
    function = spec_of(name).function
    try:
        with limits.cpu_seconds(limits.SECONDS):
            result = function(trace, **parameters)
            if not _is_result(result):
                raise TypeError(f"it returned {result!r:.80} instead of passed(), failed() or undecided()")
            return result
    except limits.TooSlow:
        return undecided("too_slow")
    except (Stopped, UserError):  # no checking process or no sandbox: not the trace's fault
        raise
    except (OSError, MemoryError) as e:  # nor is a lack of descriptors or memory on this machine
        raise Stopped(f"{name} on trace {trace.id}: {str(e) or 'not enough memory'}") from e
    except Exception as e:  # noqa: BLE001 - the one boundary where a filter's failure becomes data
        return undecided("raised", f"{type(e).__name__}: {e}")


def _is_result(result: object) -> bool:
    """Whether a filter of the user's own returned what a verdict can hold."""
    if not (isinstance(result, FilterResult) and result.outcome in get_args(FilterOutcome)):
        return False
    return isinstance(result.reason, str) and isinstance(result.evidence, str | None)


def as_verdict(name: str, version: int, result: FilterResult) -> Verdict:
    return Verdict(
        filter=name, version=version, outcome=result.outcome, reason=result.reason, evidence=result.evidence
    )


def _parameter_types(function: Callable[..., FilterResult]) -> dict[str, Any]:
    """Name -> type of the keyword-only parameters."""
    try:
        types = get_type_hints(function, localns={"Trace": Trace}, include_extras=True)
    except NameError as e:  # of a type that the user's module imports for type checkers only
        raise UserError(f"filter.rules: {function.__module__}.{function.__name__}: {e}") from e
    parameters = inspect.signature(function).parameters.values()
    return {p.name: types[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}

"""A problem with all its traces, shown as a table in a notebook."""

from __future__ import annotations

from pipeline.rows import Problem, Row, Trace


class ProblemTraces(Row):
    """A problem and its traces by stage: "filter", "evaluate/held_out/student/filter"."""

    problem: Problem
    traces: dict[str, tuple[Trace, ...]]

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        return notebook.problem(self.problem, self.traces)

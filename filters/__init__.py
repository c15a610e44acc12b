"""Filters of reasoning traces, and the answer grader they are built on.

`filters.table` names every filter and applies them to a trace. `filters.grade` compares two answers and needs
nothing of `pipeline`. Importing this package loads neither.
"""

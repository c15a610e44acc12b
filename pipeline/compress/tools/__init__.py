"""Scripts that run in the interpreter of [compress]: `python -P SCRIPT JOB.json`. None imports retort.

A script exits with one line on the user's or a library's mistake, and writes its result last.
"""

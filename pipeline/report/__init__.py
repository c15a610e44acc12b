"""`retort report RUN`: one HTML file that shows what a run did, from problems to scores, with traces to read.

build.py gathers, page.py writes; tally.py counts traces as they stream by, sample.py picks those to read,
evaluation.py sets the models side by side, charts.py draws. Nothing in the file is loaded from a network.
Leaves out what can be asked of a run row by row (run.py, show.py).
"""

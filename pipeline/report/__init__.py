"""`retort report RUN`: one HTML file that shows a run from problems to scores, with traces to read.

build.py gathers the parts and page.py writes them. tally.py counts all traces, sample.py chooses those to
read, charts.py draws. The file loads nothing from a network.
"""

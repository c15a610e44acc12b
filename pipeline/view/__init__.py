"""`retort view RUN`: a local web page that shows every trace of a run, and takes marks and notes on them.

table.py joins traces with what later stages and people made of them, queries.py answers what the page asks,
and server.py serves it on this machine alone. Its files are in static/; the report has trace.js and
report.css, which both use.
"""

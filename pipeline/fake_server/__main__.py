"""Runs the fake server; `python -m pipeline.fake_server --help` lists its options."""

from pipeline.fake_server.options import parse
from pipeline.fake_server.server import Server, run

run(Server(parse()))

"""`python -m pipeline.fake_server`; --help says what it can play."""

from pipeline.fake_server.server import main

main()

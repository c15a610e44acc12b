"""Serves the page on this machine alone, to whoever has its address, until Ctrl-C.

The address begins with a random token, which is compared in constant time. The Host header must name this
machine, so that a page elsewhere cannot reach the server through a name of its own (DNS rebinding). No other
origin may read the answers, and the policy lets the page run its own scripts only.
"""

from __future__ import annotations

import asyncio
import getpass
import hmac
import os
import secrets
import socket
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from aiohttp import web
from pydantic import BaseModel, NonNegativeInt, ValidationError

from pipeline.engine.progress import say
from pipeline.errors import Stopped, UserError, of_system
from pipeline.inspect.run import Run
from pipeline.report.page import asset
from pipeline.select.marks import Marked, Noted, append
from pipeline.view import queries
from pipeline.view.queries import Wanted

HOST, NAMES = "127.0.0.1", ("127.0.0.1", "localhost")
QUERIES = 2  # at the same time; others wait
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src-elem 'self'; style-src-attr 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_OWN = {"": "text/html", "view.js": "text/javascript", "view.css": "text/css"}
_OF_REPORT = {
    "trace.js": "text/javascript",
    "temml.min.js": "text/javascript",
    "report.css": "text/css",
    "temml.LICENSE": "text/plain",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ANSWERS: dict[str, Callable[[Sequence[Run], Wanted], Any]] = {
    "about": lambda runs, _: queries.about(runs),
    "facets": lambda runs, wanted: queries.facets(runs[wanted.run], wanted.stage),
    "traces": lambda runs, wanted: queries.page(runs[wanted.run], wanted),
    "count": lambda runs, wanted: queries.count(runs[wanted.run], wanted),
    "trace": lambda runs, wanted: queries.trace(runs[wanted.run], wanted),
    "problem": queries.problem,
}


class _Said(BaseModel):
    """A mark or a note, as the page sends it."""

    run: NonNegativeInt
    line: Marked | Noted


class Server:
    """Answers what the page asks of one run, or of two."""

    def __init__(self, runs: Sequence[Run], token: str) -> None:
        self.runs, self.token = runs, token
        self.slots = asyncio.Semaphore(QUERIES)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.guard])
        app.add_routes([web.get(f"/{{token}}/{{query:{'|'.join(_ANSWERS)}}}", self.answer)])
        app.add_routes(
            [web.get("/{token}/{file:[A-Za-z.]*}", self.file), web.post("/{token}/said", self.said)]
        )
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses strangers, turns a mistake into one line, and adds the headers."""
        try:
            token = request.match_info.get("token", "")
            known = hmac.compare_digest(token.encode(), self.token.encode())
            if not known or request.host.partition(":")[0] not in NAMES:
                raise web.HTTPForbidden(text="This is not the address that `retort view` printed.\n")
            response = await handler(request)
        except web.HTTPException as e:
            response = web.Response(status=e.status, text=e.text)
        except (UserError, Stopped, OSError, ValidationError) as e:
            response = web.json_response({"error": _in_words(e)}, status=400)
        response.headers.update(HEADERS)
        return response

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name in _OWN:
            text = files("pipeline.view").joinpath("static", name or "view.html").read_text(encoding="utf-8")
            return web.Response(text=text, content_type=_OWN[name])
        if name in _OF_REPORT:
            return web.Response(text=asset(name), content_type=_OF_REPORT[name])
        raise web.HTTPNotFound

    async def answer(self, request: web.Request) -> web.Response:
        wanted = Wanted.model_validate(dict(request.query))
        self._check_run(wanted.run)
        async with self.slots:
            answer = _ANSWERS[request.match_info["query"]]
            return web.json_response(await asyncio.to_thread(answer, self.runs, wanted))

    async def said(self, request: web.Request) -> web.Response:
        said = _Said.model_validate_json(await request.text())
        self._check_run(said.run)
        async with self.slots:
            line = await asyncio.to_thread(queries.with_text, self.runs[said.run], said.line)
        append(self.runs[said.run].path, line)
        return web.json_response({})

    def _check_run(self, number: int) -> None:
        if number >= len(self.runs):
            raise UserError(f"run: there is no run {number}, only {len(self.runs)}")


def serve(runs: Sequence[Run], port: int, browser: bool) -> None:
    """Prints the page's address and serves it until Ctrl-C. port 0: any free one."""
    token = secrets.token_urlsafe(24)
    try:
        listener = socket.create_server((HOST, port))
    except OSError as e:
        raise UserError(f"--port {port}: {os.strerror(e.errno or 0)}; 0 takes a free port") from None
    port = listener.getsockname()[1]
    address = f"http://{HOST}:{port}/{token}/"
    print(address, flush=True)
    if "SSH_CONNECTION" in os.environ:
        *_, server, ssh_port = os.environ["SSH_CONNECTION"].split()
        where = f"-p {ssh_port} {getpass.getuser()}@{server}"
        say(f"on your own machine, first: ssh -N -L {port}:{HOST}:{port} {where}")
    say("whoever has this address can read the run and mark its traces; Ctrl-C ends it")
    if browser:
        webbrowser.open(address)
    web.run_app(Server(runs, token).app(), sock=listener, print=None, access_log=None)


def _in_words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(of_system(error, "this machine") if isinstance(error, OSError) else error)

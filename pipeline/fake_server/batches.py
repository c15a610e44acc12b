"""OpenAI's files and batches as the fake server plays them: in memory, done after --batch-seconds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pipeline.fake_server.answers import choose, digest, uniform
from pipeline.fake_server.protocol import BadRequest, complete, encode, parse_request

if TYPE_CHECKING:
    from pipeline.fake_server.server import Server

Line = dict[str, Any]


class Batches:
    """The files and batches of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}  # the newest last
        self.ends: dict[str, float] = {}  # batch -> when it is done, on the loop's clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files/{id}/content", self.content),
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.listing),
            web.get("/v1/batches/{id}", self.get),
            web.post("/v1/batches/{id}/cancel", self.cancel),
        ]

    async def upload(self, http: web.Request) -> web.StreamResponse:
        if refused := self.server.unauthorized(http):
            return refused
        form = await http.post()
        given = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(given, web.FileField):
            return self.server.error(400, "a file and purpose = batch are needed")
        return web.json_response(self._store(given.file.read()))

    async def content(self, http: web.Request) -> web.StreamResponse:
        content = self.files.get(http.match_info["id"])
        if content is None:
            return self.server.error(404, "no such file")
        return self.server.unauthorized(http) or web.Response(body=content)

    async def create(self, http: web.Request) -> web.StreamResponse:
        if refused := self.server.unauthorized(http):
            return refused
        given = await http.json()
        if given.get("input_file_id") not in self.files:
            return self.server.error(400, "no such input file")
        id = f"batch_{len(self.batches):06d}"
        names = ("input_file_id", "endpoint", "completion_window", "metadata")
        self.batches[id] = {"id": id, "object": "batch", "status": "in_progress"} | {
            name: given.get(name) for name in names
        }
        self.ends[id] = self.server.now() + self.server.options.batch_seconds
        return web.json_response(self.batches[id])

    async def listing(self, http: web.Request) -> web.StreamResponse:
        if refused := self.server.unauthorized(http):
            return refused
        newest = list(reversed(self.batches))
        start = newest.index(http.query["after"]) + 1 if "after" in http.query else 0
        page = newest[start : start + int(http.query.get("limit", 20))]
        more = start + len(page) < len(newest)
        listed = [self.batches[id] for id in page]
        return web.json_response({"object": "list", "data": listed, "has_more": more})

    async def get(self, http: web.Request) -> web.StreamResponse:
        batch = self.batches.get(http.match_info["id"])
        if batch is None:
            return self.server.error(404, "no such batch")
        if batch["status"] == "in_progress" and self.server.now() >= self.ends[batch["id"]]:
            self.end(batch, "completed")
        return self.server.unauthorized(http) or web.json_response(batch)

    async def cancel(self, http: web.Request) -> web.StreamResponse:
        batch = self.batches.get(http.match_info["id"])
        if batch is None:
            return self.server.error(404, "no such batch")
        if batch["status"] == "in_progress":
            self.end(batch, "cancelled", answered=0.5)
        return web.json_response(batch)

    def end(self, batch: dict[str, Any], status: str, answered: float = 1) -> None:
        """Answers the first requests of a batch, a share of all, and ends it."""
        lines = self.files[batch["input_file_id"]].splitlines()
        number = round(answered * len(lines))
        results = [self.answer(json.loads(line)) for line in lines[:number]]
        error = {"code": f"batch_{status}", "message": "not reached"}
        results += [_result(json.loads(line)["custom_id"], None, error) for line in lines[number:]]
        good = [each for each in results if (each["response"] or {}).get("status_code") == 200]
        self.write(batch, good, [each for each in results if each not in good])
        batch["status"] = status

    def write(self, batch: dict[str, Any], good: list[Line], bad: list[Line]) -> None:
        """Stores the result files of a batch."""
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[name] = self._store("".join(json.dumps(line) + "\n" for line in lines).encode())["id"]

    def answer(self, line: Line) -> Line:
        """Answers one request, as it would be answered on its own."""
        server, body = self.server, json.dumps(line["body"]).encode()
        try:
            request = parse_request(body)
        except BadRequest as e:
            return _result(line["custom_id"], _response(400, _error(str(e))), None)
        key = digest(server.options.seed, request.model, request.messages, request.seed)
        server.attempts[key] += 1
        if choose(uniform(key, "error", server.attempts[key]), {"500": server.options.errors}):
            server.outcomes["500"] += 1
            return _result(line["custom_id"], _response(500, _error("an error of the fake server")), None)
        completion = complete(server.options, request, key)
        server.count(key, completion, "200")
        [encoded] = encode(request, completion)
        return _result(line["custom_id"], _response(200, json.loads(encoded)), None)

    def _store(self, content: bytes) -> dict[str, Any]:
        id = f"file-{len(self.files):06d}"
        self.files[id] = content
        return {"id": id, "object": "file", "bytes": len(content), "purpose": "batch"}


def _result(request: str, response: Any, error: Any) -> Line:
    return {"id": f"batch_req_{request[:8]}", "custom_id": request, "response": response, "error": error}


def _response(status: int, body: Any) -> dict[str, Any]:
    return {"status_code": status, "request_id": "fake", "body": body}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "param": None, "code": None}}

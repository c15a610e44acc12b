"""The part of the hub's HTTP API that an upload, a look at a model and a data set of JSONL files need."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


def _repository(name: str) -> str:
    """The key in `files` of a repository as the paths of its files name it."""
    return name if name.startswith("datasets/") else f"models/{name}"


class Hub:
    """A server on a free port. Records the repositories `made`, their `files` and the `tokens` received."""

    def __init__(self, refuse: bool = False) -> None:
        self.made: set[str] = set()
        self.files: dict[str, dict[str, bytes]] = {}
        self.sizes: dict[str, int] = {}  # of files reported as larger than they are
        self.tokens: set[str] = set()
        self.asked: list[str] = []  # the paths of GET and HEAD
        self.refuse = refuse
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a POST."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = (
                f"{asked.get('organization')}/{asked['name']}" if asked.get("organization") else asked["name"]
            )
            kind = asked.get("type") or "model"
            self.made.add(f"{kind} {name}")
            return {"url": f"{self.url}/{'datasets/' * (kind == 'dataset')}{name}", "name": name, "id": name}
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return {
                "files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            }
        if path.endswith("/commit/main"):
            name = path.removeprefix("/api/").removesuffix("/commit/main")
            kept = self.files.setdefault(name, {})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del kept[line["value"]["path"]]
            return {
                "commitUrl": f"{self.url}/{name.removeprefix('models/')}/commit/{'0' * 40}",
                "commitOid": "0" * 40,
                "success": True,
            }
        return {"warnings": [], "errors": []}

    def look(self, path: str) -> object:
        """The answer to a GET: the user, the files of a repository, or whether it exists."""
        if path.startswith("/api/whoami"):
            return {"type": "user", "name": "me", "orgs": [{"name": "ours"}]}
        name, tree, _ = path.removeprefix("/api/").partition("?")[0].partition("/tree/")
        held = self.files.get(name, {})
        if not tree:
            siblings = [{"rfilename": p, "size": self.sizes.get(p, len(d))} for p, d in held.items()]
            return {"id": name, "sha": "0" * 40, "siblings": siblings}
        return [{"type": "file", "path": p, "size": len(held[p]), "oid": "0" * 40} for p in held]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b"".join(iter(self._chunk, b""))
                hub.tokens.add(self.headers.get("Authorization", ""))
                if hub.refuse:
                    self._send(403, {"error": "You have no right to do that"})
                else:
                    self._send(200, hub.answer(self.path, body))

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                name, resolve, path = self.path.lstrip("/").partition("/resolve/")
                path = path.partition("/")[2]  # the path after the revision
                if not resolve:
                    self._send(200, hub.look(self.path))
                elif (data := hub.files.get(_repository(name), {}).get(path)) is not None:
                    self._send_file(data)
                else:
                    self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

            def _send_file(self, data: bytes) -> None:
                self.send_response(200)
                self.send_header("ETag", f'"{len(data)}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _chunk(self) -> bytes:
                size = int(self.rfile.readline(), 16)
                data = self.rfile.read(size)
                self.rfile.readline()
                return data

            def _send(self, status: int, answer: object, headers: dict[str, str] | None = None) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

"""The server answers this machine and the right token only, and the text of a model stays text."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from pipeline.inspect.run import Run
from pipeline.select.marks import MARKS, NOTES, read_marks, read_notes, text_hash
from pipeline.view.server import HEADERS, Server
from tests.small_run import HOSTILE, write_run

TOKEN = "right"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("view") / "run")


def asked(
    run: Run, path: str, headers: Mapping[str, str] | None = None, post: object = None
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of the answer to one request."""

    async def request() -> tuple[int, str, dict[str, str]]:
        async with TestClient(TestServer(Server([run], TOKEN).app())) as client:
            method, data = ("GET", None) if post is None else ("POST", json.dumps(post))
            answer = await client.request(method, path, headers=headers, data=data)
            return answer.status, await answer.text(), dict(answer.headers)

    return asyncio.run(request())


@pytest.mark.parametrize("path", ["/", "/about", "/wrong/about", f"/{TOKEN}x/about", "/wrong/view.js"])
def test_without_the_token_nothing_is_told(run: Run, path: str) -> None:
    status, text, _ = asked(run, path)
    assert (status, text) == (403, "This is not the address that `retort view` printed.\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_page_elsewhere_cannot_reach_it_by_a_name_of_its_own(run: Run, host: str) -> None:
    assert asked(run, f"/{TOKEN}/about", {"Host": host})[0] in (400, 403)
    assert asked(run, f"/{TOKEN}/about", {"Host": "localhost:1234"})[0] == 200  # through ssh -L


def test_every_answer_has_the_policy_and_lets_no_other_origin_read(run: Run) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/traces", f"/{TOKEN}/trace", "/wrong/"):
        headers = asked(run, path, {"Origin": "http://evil.example"})[2]
        assert headers.items() >= HEADERS.items()
        assert not any(name.startswith("Access-Control") for name in headers)
    assert "unsafe" not in HEADERS["Content-Security-Policy"].partition("script-src")[2].partition(";")[0]


@pytest.mark.parametrize("path", ["..%2fserver.py", "%2e%2e/server.py", "page.py", "view.html", "keep.jsonl"])
def test_only_the_files_of_the_page_are_served(run: Run, path: str) -> None:
    assert asked(run, f"/{TOKEN}/{path}")[0] in (403, 404)


@pytest.mark.parametrize("name", ["", "view.js", "view.css", "trace.js", "report.css", "temml.min.js"])
def test_the_files_of_the_page_come_whole(run: Run, name: str) -> None:
    status, text, _ = asked(run, f"/{TOKEN}/{name}")
    assert status == 200
    assert len(text) > 500
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_text_of_a_model_travels_as_json_only(run: Run) -> None:
    first = next(iter(run.traces)).id
    status, text, headers = asked(run, f"/{TOKEN}/trace?id={first}")
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert HOSTILE in json.loads(text)["reasoning"]


@pytest.mark.parametrize(
    "query",
    [
        "traces?at=-1",
        "traces?limit=x",
        "traces?run=1",
        "traces?limit=999",
        "traces?where=)",
        "trace?id=x",
        "facets?stage=x",
    ],
)
def test_a_mistake_in_the_address_is_one_line(run: Run, query: str) -> None:
    status, text, _ = asked(run, f"/{TOKEN}/{query}")
    assert status == 400
    assert "\n" not in json.loads(text)["error"]


def test_marks_and_notes_are_written_to_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    said = f"/{TOKEN}/said"
    trace = next(iter(run.traces))
    for line in ({"mark": "keep"}, {"note": HOSTILE}):
        assert asked(run, said, post={"run": 0, "line": {"trace": trace.id} | line})[0] == 200
    of_none = {"trace": "no", "note": ""}
    for line in ({"trace": trace.id, "mark": "maybe"}, {"trace": trace.id}, {"mark": "keep"}, of_none):
        assert asked(run, said, post={"run": 0, "line": line})[0] == 400
    assert asked(run, "/wrong/said", post={"run": 0, "line": {"trace": "b", "mark": "keep"}})[0] == 403
    (mark,) = read_marks(run.path / MARKS).values()
    assert mark.mark == "keep"
    assert mark.text == text_hash(trace.reasoning, trace.response)
    assert read_notes(run.path / NOTES) == {trace.id: HOSTILE}

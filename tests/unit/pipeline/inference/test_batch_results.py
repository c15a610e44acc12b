"""Result files of batches are untrusted; the ledger survives a torn line."""

import json
from pathlib import Path

import pytest

from pipeline.inference.batch_ledger import Ledger, PaidBatch, request_name
from pipeline.inference.batch_results import completion_of, index
from pipeline.inference.batch_runner import RequestTotals
from pipeline.inference.http_errors import ErrorStatus, Retry
from pipeline.inference.logprobs import NoLogprobs

CHOICE = {"message": {"content": "<think>\n6 + 1\n</think>\n\n7 \ud83d"}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5}


def result(name: str, status: int = 200, body: object = None) -> dict[str, object]:
    body = body or {"choices": [CHOICE], "usage": USAGE}
    return {"custom_id": name, "response": {"status_code": status, "body": body}, "error": None}


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def test_results_are_found_in_any_order_and_files(tmp_path: Path) -> None:
    good = write(tmp_path / "good", result("b"), "", result("a"))
    bad = write(tmp_path / "bad", result("c", 500, {"error": {"message": "overloaded"}}))
    results = index([good, bad], frozenset("abcd"), 10_000)
    assert results.places.keys() == set("abc")
    assert results.ignored.total() == 0
    completion = completion_of(results.record("a") or {}, None, None)
    assert (completion.reasoning, completion.response) == ("6 + 1", "7 \ufffd")
    assert (completion.prompt_tokens, completion.completion_tokens) == (3, 5)
    with pytest.raises(ErrorStatus, match="500"):
        completion_of(results.record("c") or {}, None, None)
    assert results.record("d") is None


def test_hostile_lines_are_ignored_and_counted(tmp_path: Path) -> None:
    long, deep = json.dumps(result("a", body={"choices": "x" * 5000})), "[" * 9_000
    lines = (long, deep, "7", "{", {"custom_id": ["a"]}, result("../a"), result("a"), result("a"))
    results = index([write(tmp_path / "f", *lines)], frozenset("a"), 4_000)
    assert results.ignored == {"unreadable": 5, "answer no request of it": 1, "repeated": 1}
    assert completion_of(results.record("a") or {}, None, None).finish_reason == "stop"


@pytest.mark.parametrize("response", [None, 7, {}, {"status_code": "200"}, {"status_code": 9**9}])
def test_a_result_without_a_response_may_be_retried(response: object) -> None:
    with pytest.raises(Retry, match="batch_expired"):
        completion_of({"response": response, "error": {"code": "batch_expired"}}, None, None)


def test_tokens_of_results_that_cannot_be_used_count_as_spent() -> None:
    pool = RequestTotals()
    with pytest.raises(NoLogprobs):
        completion_of(result("a"), True, None, pool.record_lost)
    aborted = {"choices": [CHOICE | {"finish_reason": "error"}], "usage": USAGE}
    with pytest.raises(Retry, match="cut off"):
        completion_of(result("a", body=aborted), False, None, pool.record_lost)
    assert pool.lost == (6, 10)


def test_a_torn_line_of_the_ledger_counts_as_absent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.uploaded(batch := PaidBatch("file-1", frozenset("ab"), frozenset({"seed"})))
    batch.id = "batch-1"
    ledger.created(batch)
    assert ledger.read() == [batch]
    [path] = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-9])
    assert ledger.read() == [PaidBatch("file-1", frozenset("ab"), frozenset({"seed"}))]


def test_a_process_that_started_first_may_go_on_with_the_batch_of_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ledger_of(owner: str) -> Ledger:
        monkeypatch.setattr("pipeline.inference.batch_ledger.this_owner", lambda: owner)
        return Ledger(tmp_path)

    first, second = ledger_of("1"), ledger_of("2")
    second.uploaded(batch := PaidBatch("file-1", frozenset("ab"), frozenset()))
    batch.id, batch.status, batch.results = "batch-1", "completed", ("out",)
    second.created(batch)
    first.ended(batch)
    first.saved(batch, "a")
    assert first.read() == [batch]
    assert batch.taken == {"a"}
    first.saved(batch, "b")
    assert first.read() == []


def test_a_collected_batch_is_needed_no_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.uploaded(batch := PaidBatch("file-1", frozenset("a"), frozenset()))
    batch.id, batch.status, batch.results = "batch-1", "completed", ("../file-2",)
    ledger.created(batch)
    ledger.ended(batch)
    assert ledger.read() == [batch]
    [stored] = ledger.results_of(batch)
    assert stored.parent == tmp_path
    stored.write_text("{}")
    ledger.collected(batch)
    assert ledger.read() == []
    assert not stored.exists()


def test_a_batch_is_kept_for_those_that_still_need_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.uploaded(batch := PaidBatch("file-1", frozenset("abc"), frozenset()))
    ledger.saved(batch, {"a"})
    [found] = ledger.read()
    assert found.requests - found.taken == {"b", "c"}
    ledger.saved(found, {"b", "c"})
    assert ledger.read() == []


def test_equal_requests_have_one_name() -> None:
    assert request_name({"a": 1, "b": 2}) == request_name({"b": 2, "a": 1}) != request_name({"a": 1, "b": 3})

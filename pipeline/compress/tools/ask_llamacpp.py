"""Asks a GGUF file with llama.cpp's server: `python -P ask_llamacpp.py JOB.json`.

JOB and result are those of ask_transformers.py; answer_ids is required. The server measures no given text,
so every token of the answer is looked up among the likeliest ones after the tokens before it.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp

CANDIDATES = 100  # of each position; a token that is not among them counts as likely as the last of them


def ask(job: dict[str, Any]) -> dict[str, Any]:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = job["path"]
    parameters.n_ctx = 2 * (len(job["prompt_ids"]) + job["max_tokens"]) + 64
    threads = max(1, len(os.sched_getaffinity(0)) // 2)  # its threads wait for each other: leave room
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.n_parallel = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    url = server.listening_address
    prompt = _prompt_ids(url, job["messages"])
    answer: list[int] = job["answer_ids"]
    found = [_next(url, job["prompt_ids"] + answer[:n]) for n in range(len(answer))]
    body = {"messages": job["messages"], "max_tokens": job["max_tokens"], "temperature": 0}
    choice = _post(url, "/v1/chat/completions", body | {"reasoning_format": "none"})["choices"][0]
    return {
        "prompt_ids": prompt,
        "answer": choice["message"]["content"],
        "ended": choice["finish_reason"] == "stop",
        "logprob": sum(map(_logprob, found, answer)) / len(answer),
        "stops": _stops(url, job),
    }


def _prompt_ids(url: str, messages: list[dict[str, str]]) -> list[int]:
    text = _post(url, "/apply-template", {"messages": messages})["prompt"]
    body = {"content": text, "add_special": True, "parse_special": True}
    return list(_post(url, "/tokenize", body)["tokens"])


def _next(url: str, ids: list[int]) -> list[dict[str, Any]]:
    """The likeliest tokens after these, the likeliest first."""
    body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": CANDIDATES, "cache_prompt": True}
    return list(_post(url, "/completion", body)["completion_probabilities"][0]["top_logprobs"])


def _logprob(candidates: list[dict[str, Any]], token: int) -> float:
    return next((c["logprob"] for c in candidates if c["id"] == token), candidates[-1]["logprob"])


def _stops(url: str, job: dict[str, Any]) -> bool | None:
    """Whether the server ends the whole student's answer where the student did; None if it did not."""
    if not job["answer_ended"]:
        return None
    ids = job["prompt_ids"] + job["answer_ids"][:-1]
    done = _post(url, "/completion", {"prompt": ids, "n_predict": 4, "temperature": 0})
    return done["stop_type"] == "eos" and not done["content"].strip()


def _post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_bytes())
    Path(given["result"]).write_text(json.dumps(ask(given)))
    os._exit(0)  # the server's threads would keep the process

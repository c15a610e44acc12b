"""Asks a model folder over HTTP, in a vLLM server that is started for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.stage import Job
from pipeline.errors import Stopped, UserError, one_line
from pipeline.inference.http import CHAT, COMPLETIONS, ResponseLimits, Transport
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry
from pipeline.inference.vllm_server import serving
from pipeline.train.stage import student_of

STALL = 300.0  # seconds
AFTER_THE_END = 4  # tokens that may follow an answer before the check gives up


def ask(path: Path, name: str, question: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Returns what the server makes of a question: the fields of asking.Reply.

    Raises ServerDied if vLLM does not take the folder.
    """
    student = student_of(job.recipe)
    # The export's own chat template is checked, whatever template the recipe serves the student with.
    engine = {k: v for k, v in student.vllm.items() if k.replace("-", "_") != "chat_template"}
    endpoint = student.model_copy(update={"vllm": engine})
    log = job.logs / f"compress-{name}-vllm.log"
    with serving(endpoint, str(path.absolute()), name, log, job.say) as server:
        try:
            return asyncio.run(_ask(server.base_urls[0], name, question))
        except (ErrorStatus, RequestFailed, Retry, ValueError, KeyError, TypeError) as e:
            if died := server.died():
                raise Stopped(died) from None
            raise UserError(f"{name}: vLLM does not answer: {one_line(e)}") from None


async def _ask(base_url: str, name: str, question: Mapping[str, Any]) -> dict[str, Any]:
    prompt, answer = question["prompt_ids"], question["answer_ids"]
    common = {"model": name, "temperature": 0}
    chat = {"messages": question["messages"], "max_tokens": question["max_tokens"]}
    measured = {"prompt": prompt + answer, "max_tokens": 1, "prompt_logprobs": 0}
    async with Transport(base_url) as server:
        tokens = await _post(server, "/tokenize", {"model": name, "messages": question["messages"]})
        (own,) = (await _post(server, CHAT, common | chat))["choices"]
        (found,) = (await _post(server, COMPLETIONS, common | measured))["choices"]
        stops = None
        if question["answer_ended"]:
            rest = {"prompt": prompt + answer[:-1], "max_tokens": AFTER_THE_END}
            (after,) = (await _post(server, COMPLETIONS, common | rest))["choices"]
            stops = after["finish_reason"] == "stop" and not after["text"].strip()
    positions = zip(found["prompt_logprobs"][len(prompt) :], answer, strict=True)
    logprobs = [position[str(token)]["logprob"] for position, token in positions]
    message = own["message"]
    reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
    return {
        "prompt_ids": tokens["tokens"],
        "answer": reasoning + (message["content"] or ""),
        "ended": own["finish_reason"] == "stop",
        "logprob": sum(logprobs) / len(logprobs),
        "stops": stops,
    }


async def _post(transport: Transport, path: str, body: dict[str, Any]) -> Any:
    limits = ResponseLimits(stall=STALL, overhead=2**26)
    return json.loads(await transport.fetch(path, limits, json.dumps(body).encode()))

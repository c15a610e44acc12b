"""Serves a GGUF file with llama.cpp, OpenAI-compatible: `python -P serve_llamacpp.py JSON`.

JSON: path, name, host, port, context (tokens of one conversation). The server takes nothing else from the
file than the model, as vLLM does here: temperature first, then top_p, and no other sampler.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import xllamacpp

SLOTS = 4  # answers in progress; further requests wait. The cache has room for all of them.


def start(job: dict[str, Any]) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = job["path"]
    parameters.model_alias = {job["name"]}
    parameters.hostnames, parameters.port = [job["host"]], job["port"]
    parameters.n_parallel, parameters.n_ctx = SLOTS, SLOTS * job["context"]
    # A core stays free: llama.cpp's threads wait for each other in loops, and one without a core stops all.
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.sampling.samplers = "temperature;top_p"
    parameters.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    parameters.cache_ram_mib = 0  # answers must not depend on earlier ones
    parameters.ui = parameters.endpoint_slots = False
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    server = start(json.loads(sys.argv[1]))
    threading.Event().wait()  # until a signal ends the process

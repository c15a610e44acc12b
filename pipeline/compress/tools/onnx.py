"""Exports a model folder to ONNX for a CPU: `python -P onnx.py JOB.json`.

JOB: model (folder), out (folder), scheme, result (JSON file to write). The exporter is the model builder of
onnxruntime-genai, which writes the graph with its key-value cache, the tokenizer and genai_config.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRECISIONS = {"onnx": "fp32", "onnx-int4": "int4"}


def export(job: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(dir=Path(job["out"]).parent) as cache:
        model = _readable(Path(job["model"]), Path(cache, "model"))
        command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-i", str(model)]
        command += ["-o", job["out"], "-p", PRECISIONS[job["scheme"]], "-e", "cpu", "-c", cache]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"the exporter failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    if not Path(job["out"], "model.onnx").is_file():
        raise SystemExit("the exporter of onnxruntime-genai does not know the student's architecture")


def _readable(model: Path, folder: Path) -> Path:
    """Links to the model's files, and its config without an empty quantization_config, which the exporter
    reads as a table.
    """
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_bytes())
    (folder / "config.json").unlink()
    kept = {name: value for name, value in config.items() if name != "quantization_config" or value}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_bytes())
    export(given)
    Path(given["result"]).write_text(json.dumps({"calibration_examples": None, "calibration_tokens": None}))

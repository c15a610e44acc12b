"""An interpreter for [compress] that has every package, and in which every server is the fake server."""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPT = """#!{python}
import json, os, sys
if sys.argv[1] == "-I":  # which versions of these packages?
    print(json.dumps({{name: "1.0" for name in sys.argv[4:]}}))
else:
    job = json.loads(sys.argv[3])
    assert os.path.exists(job["path"]), job
    words = ["--port", str(job["port"]), "--model", job["name"], "--malformed", "0", "--truncated", "0"]
    python = {python!r}
    os.environ["PYTHONPATH"] = {root!r}
    os.execv(python, [python, "-m", "pipeline.fake_server", *words])
"""


def write(folder: Path) -> Path:
    """Writes the interpreter into a folder and returns its path."""
    path = folder / "python"
    root = str(Path(__file__).resolve().parents[1])
    path.write_text(_SCRIPT.format(python=sys.executable, root=root))
    path.chmod(0o755)
    return path

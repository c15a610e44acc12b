"""`python -m pipeline` and the console script `retort`."""

import os
import sys
from pathlib import Path

# `python -m` searches the current folder first, where filters.py or prompts/ may belong to another project.
_IN_CLONE = str(Path(__file__).resolve().parents[1]) == os.getcwd()
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] == os.getcwd() and not _IN_CLONE:
    del sys.path[0]

from pipeline.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()

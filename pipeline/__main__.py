"""`python -m pipeline` and the console script `retort`."""

import os
import sys
from pathlib import Path

# `python -m` looks into the current folder first, where a filters.py or a prompts/ is somebody else's.
_WITHIN = str(Path(__file__).resolve().parents[1]) == os.getcwd()
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] == os.getcwd() and not _WITHIN:
    del sys.path[0]

from pipeline.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()

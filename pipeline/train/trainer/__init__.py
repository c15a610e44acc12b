"""The training programs, reached as subprocesses: the only code that imports torch, transformers and trl."""

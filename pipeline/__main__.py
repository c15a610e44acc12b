"""`python -m pipeline` and the console script `retort`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()

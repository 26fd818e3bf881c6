"""Entry point of `python -m benchmarks.starvation.deck`."""

import sys

from benchmarks.starvation.deck.command import main

if __name__ == "__main__":
    sys.exit(main())

"""A rank that ends as it is told, while the others wait for a minute.

python -m tests.benchmarks.rank_that_ends RANK killed|failed|well
"""

import os
import signal
import sys
import time


def main(number: str, how: str) -> None:
    """See above."""
    if how == "well":
        return
    if os.environ["RANK"] != number:
        time.sleep(60)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit("there is no disk")


if __name__ == "__main__":
    main(*sys.argv[1:])

#!/usr/bin/env python3
"""The command: text in, a token dataset out. `--help` says how.

python pipelines/tokenize.py --input corpus/*.parquet --output tokens/v1 --tokenizer gpt2
"""

import os
import sys

# Run as a script, this folder comes first on the path, and this file hides the standard library's
# tokenize, which `inspect` and half of the world import. So before any other import:
if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0: done, 1: an error, 2: wrong usage, 130 or 143: interrupted."""
    from pipelines.options import parse_options
    from shards.errors import StokerError

    try:
        options = parse_options(arguments)
        if options.dry_run:
            from pipelines.dry_run import preview

            print(preview(options))
            return 0
        from pipelines.job import Interrupted, run

        try:
            print(run(options, show_progress=True))
        except Interrupted as stop:
            print(f"stopped: {stop}", file=sys.stderr)
            return 128 + stop.signal
    except StokerError as error:
        if os.environ.get("STOKER_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

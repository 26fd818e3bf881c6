"""What the commands of this folder share: errors in one line, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from pipelines.interrupt import Interrupted
from shards.errors import StokerError


def guarded(name: str, work: Callable[[], None]) -> int:
    """Run `work`; the exit code: 0 done, 1 an error, said on stderr, 130 or 143 interrupted.

    With STOKER_DEBUG=1 an error keeps its traceback.
    """
    try:
        work()
    except StokerError as error:
        if os.environ.get("STOKER_DEBUG") == "1":
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0

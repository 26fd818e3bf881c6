"""How long an accelerator starves: one training loop, fed by Stoker and by inline tokenization.

python -m benchmarks.starvation --data s3://tokens/v1 --text s3://corpus/ --output report/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.command import guarded
from benchmarks.starvation.arguments import parse
from benchmarks.starvation.checks.selftest import self_test
from benchmarks.starvation.loop.launch import launch
from benchmarks.starvation.loop.world import told
from benchmarks.starvation.options import Options
from benchmarks.starvation.reports.compare import compare, in_lines, read_report
from benchmarks.starvation.reports.report import console_table
from benchmarks.starvation.reports.sentences import beside_the_table
from benchmarks.starvation.run import run
from shards.errors import StokerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""

    def work() -> None:
        options = parse(arguments)
        if options is None:
            test()
        elif (options.ranks or 1) > 1 and told() is None:
            launch(sys.argv[1:] if arguments is None else arguments, options.ranks or 1)
        else:
            show(options)

    return guarded("starvation", work)


def test() -> None:
    """The self-test alone.

    Raises:
        StokerError: a fault that was put in was not named.
    """
    if failed := [control.name for control in self_test() if not control.passed]:
        raise StokerError(f"the report did not name what was put in: {', '.join(failed)}")


def show(options: Options) -> None:
    """Measure, then print what was found and where it was written; of several ranks the first."""
    report = run(options)
    if (told() or (0, 1))[0] > 0:
        return
    print(f"\n{report.verdict}\n\n{console_table(report)}\n")
    if said := beside_the_table(report):
        print("\n".join(said) + "\n")
    if options.compare is not None:
        print(in_lines(compare(read_report(options.compare), report)) + "\n")
    for name in ("report.html", "report.md", "report.json", "steps.parquet"):
        print(options.output / name)

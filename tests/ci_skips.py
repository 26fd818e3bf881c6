"""Under `CI=true` a skipped test is a failure: what nobody runs, nobody knows.

The only reasons that count are those the machine gives: no ../shared beside the repository, no GPU,
no network, no root (to mount a disk that fills up).
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any

import pytest

_ALLOWED = re.compile(r"missing \.\./shared|\bGPU\b|\bnetwork\b|\broot\b")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skipped report into a failed one when CI=true and its reason is not the machine's."""
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI") != "true":
        return
    where, line, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
    if not _ALLOWED.search(reason):
        report.outcome = "failed"
        rule = "under CI=true a skip needs a missing ../shared, GPU, network or root"
        report.longrepr = f"{where}:{line}: {rule}. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Skips by marker, fixture or `pytest.skip` inside a test."""
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Skips of a whole module, `pytest.importorskip` among them."""
    report = yield
    refuse_skip(report)
    return report

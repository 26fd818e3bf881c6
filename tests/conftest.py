"""Fixtures for every folder of tests: a real S3 server, the real inputs beside the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.ci_skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.servers import S3Server, serve_s3

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of a process; from its first use on, the AWS variables name it.

    A Ray that is already running doesn't see them: ask for this fixture before the one that starts
    Ray.
    """
    with serve_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name in [
            name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"
        ]:
            patch.delenv(name)
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real inputs beside the repository (or STOKER_SHARED)."""
    folder = Path(os.environ.get("STOKER_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip("missing ../shared")
    return folder

"""Hypothesis without a deadline: the machines that run these tests are shared."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("loaders", deadline=None)
settings.load_profile("loaders")


@pytest.fixture(scope="session", autouse=True)
def no_read_comes_back_at_exit() -> Iterator[None]:
    """The proxies of these tests end with the process, and with them the reads that they hold up:
    just when a thread that comes back from one would abort it.
    """
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("stoker-"):
            thread.join(60)

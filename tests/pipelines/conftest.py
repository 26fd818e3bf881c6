"""One real Ray for all tests of the job, in a home of its own."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from pipelines.connect import environment, worker_environment
from tests.pipelines.interrupted import SlowJob, make_slow_job
from tests.pipelines.processes import temporary_home
from tests.servers import S3Server


@pytest.fixture(scope="session")
def ray_home() -> Iterator[Path]:
    """HOME and temporary folder for Ray; short, since Ray puts sockets there (107 characters)."""
    folder = Path(tempfile.mkdtemp(prefix="stoker-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_variables(ray_home: Path) -> dict[str, str]:
    """The environment of a Ray that knows nothing of this machine's others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(ray_home), "RAY_TMPDIR": str(ray_home), "HF_HUB_OFFLINE": "1"}


def _as_long_as_it_disturbs_nobody(
    fixture_name: str, config: pytest.Config
) -> Literal["module", "session"]:
    """The slow tests start and kill Rays of their own; all others can share one."""
    return "module" if config.getoption("markexpr") == "slow" else "session"


@pytest.fixture(scope=_as_long_as_it_disturbs_nobody)
def local_ray(s3: S3Server, ray_home: Path) -> Iterator[None]:
    """A Ray with two cores that jobs in this process join; it sees the S3 server."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(ray_home))
        patch.setenv("RAY_TMPDIR", str(ray_home))
        with environment(worker_environment()):
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def slow_job(tmp_path_factory: pytest.TempPathFactory) -> SlowJob:
    """A job that lasts some seconds, and what an undisturbed run of it leaves."""
    with temporary_home() as home:
        return make_slow_job(tmp_path_factory.mktemp("slow-job"), home)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home for the Ray of a test that starts and kills one."""
    with temporary_home() as folder:
        yield folder

"""One small dataset for all examples."""

from pathlib import Path

import pytest

from tests.examples.support import write_small_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """90 rows to train on, 10 held out."""
    return write_small_dataset(str(tmp_path_factory.mktemp("examples") / "tokens"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where an example keeps its checkpoints."""
    return tmp_path / "run"

"""Each side installs alone, by plain pip, and works outside the repository without the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# What a copy of the sources leaves out at the top: what git ignores there, and git's own.
NOT_SOURCE = {".git", ".peers", ".venv", "build", "demo", "dist", "report", "stoker.egg-info"}
SIDES = {
    "pipelines": ("import pipelines.tokenize, shards", "torch"),
    "loaders": ("import shards; from loaders import DataLoader, TokenDataset", "ray"),
}


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command as in a fresh shell; its output, or a failure that shows it."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the repository: a build in place leaves files behind and packs stale ones."""
    copy = tmp_path_factory.mktemp("sources") / "stoker"
    shutil.copytree(
        repository,
        copy,
        ignore=lambda folder, names: (
            NOT_SOURCE & set(names) if Path(folder) == repository else {"__pycache__"}
        ),
    )
    return copy


@pytest.mark.parametrize("side", SIDES)
def test_a_side_installs_alone_and_imports_outside_the_repository(
    side: str, sources: Path, tmp_path: Path
) -> None:
    imports, other = SIDES[side]
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    options = ("--quiet", "--no-compile", "--constraint", sources / "constraints.txt")
    pip = (python, "-m", "pip", "install", *options)
    if side == "loaders" and os.environ.get("TORCH_INDEX"):
        run(*pip, "--no-deps", "--index-url", os.environ["TORCH_INDEX"], "torch", cwd=tmp_path)
    run(*pip, f".[{side}]", cwd=sources)

    outside = tmp_path / "outside"
    outside.mkdir()
    run(python, "-c", imports, cwd=outside)
    run(python, "-m", "shards", "--help", cwd=outside)
    find = f"import importlib.util as u, sys; sys.exit(u.find_spec({other!r}) is not None)"
    run(python, "-c", find, cwd=outside)

    packed = run(python, "-m", "pip", "show", "--files", "stoker", cwd=outside)
    files = [line.strip() for line in packed.partition("Files:\n")[2].splitlines()]
    assert "cluster/ec2/ray-graviton.yaml" in files
    assert [name for name in files if name.startswith(("tests/", "docs/"))] == []

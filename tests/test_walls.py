"""Imports run one way: pipelines -> shards <- loaders, benchmarks on top; none imports cluster."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("shards", "pipelines", "loaders", "benchmarks", "cluster")
FORBIDDEN = {
    "shards": {
        "ray",
        "torch",
        "s3torchconnector",
        "pipelines",
        "loaders",
        "benchmarks",
        "cluster",
        "tests",
    },
    "pipelines": {"torch", "s3torchconnector", "loaders", "benchmarks", "cluster", "tests"},
    "loaders": {"ray", "pipelines", "benchmarks", "cluster", "tests"},
    "benchmarks": {"cluster", "tests"},
    "cluster": {"benchmarks", "tests"},
}


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in `source`, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, package if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "import_module",
            "importlib.import_module",
        }:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value).partition(".")[0]


def trespasses(root: Path) -> list[str]:
    """`file:line imports name` for every import that goes through a wall, under `root`."""
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for room in ROOMS
        for path in sorted((root / room).rglob("*.py"))
        for line, name in imported(path.read_text(), room)
        if name in FORBIDDEN[room]
    ]


def test_no_file_imports_through_a_wall(repository: Path) -> None:
    assert trespasses(repository) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("shards", "import ray.data"),
        ("shards", "from pipelines.plan import Plan"),
        ("pipelines", "def f():\n    import torch"),
        ("pipelines", "from importlib import import_module\nimport_module('torch.utils')"),
        ("loaders", "if False:\n    from ray import data"),
        ("loaders", "import cluster.check as check"),
        ("benchmarks", "from cluster import check"),
    ],
)
def test_the_check_catches_an_offender(room: str, line: str, tmp_path: Path) -> None:
    (tmp_path / room / "inner").mkdir(parents=True)
    (tmp_path / room / "inner" / "good.py").write_text("import json\nfrom . import other\n")
    assert trespasses(tmp_path) == []
    (tmp_path / room / "inner" / "bad.py").write_text(line + "\n")
    assert len(trespasses(tmp_path)) == 1


# Runs in a process of its own. A module that is None in sys.modules can't be imported, as one that
# a node of this side hasn't got; libraries that load torch where it is don't blur the answer.
IMPORT_ROOM = """
import importlib, pkgutil, sys
rooms, absent = sys.argv[1].split(","), sys.argv[2].split(",")
sys.modules.update(dict.fromkeys(absent))
for room in rooms:
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
loaded = sorted(name for name in absent if sys.modules.get(name) is not None)
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""


def import_rooms(rooms: str, absent: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Imports every module of `rooms` from `root` where the modules `absent` don't exist."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT_ROOM, rooms, absent],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("rooms", "absent"),
    [
        (
            "shards",
            "ray,torch,s3torchconnector,transformers,gigatoken,pipelines,loaders,benchmarks,cluster",
        ),
        ("pipelines", "torch,s3torchconnector,loaders,benchmarks,cluster"),
        ("loaders", "ray,transformers,gigatoken,pipelines,benchmarks,cluster"),
        ("benchmarks", "cluster"),
    ],
)
def test_every_module_imports_on_a_node_of_its_side(
    rooms: str, absent: str, repository: Path
) -> None:
    done = import_rooms(rooms, absent, repository)
    assert done.returncode == 0, done.stderr


def test_the_node_of_a_side_catches_an_offender(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__init__.py").write_text("__import__('ray')\n")
    done = import_rooms("shards", "ray", tmp_path)
    assert done.returncode != 0
    assert "ray" in done.stderr

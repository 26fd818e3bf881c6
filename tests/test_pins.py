"""`make setup` installs exactly what constraints.txt says; every runtime dependency says why."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

EXTRAS = ("pipelines", "loaders", "bench", "test")


def pins(repository: Path) -> dict[NormalizedName, str]:
    """Canonical name -> exact version, as constraints.txt has them."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    exact = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in exact}


def pulled(
    name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]
) -> set[NormalizedName]:
    """Canonical names of every distribution that `name[extras]` brings onto this machine."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    found: set[NormalizedName] = set()
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        found.add(canonicalize_name(requirement.name))
        found |= pulled(requirement.name, frozenset(requirement.extras), seen)
    return found


def test_constraints_pin_every_distribution_our_extras_pull(repository: Path) -> None:
    needed = pulled("stoker", frozenset(EXTRAS), set())
    assert {
        "torch",
        "ray",
        "pyarrow",
        "aiohttp",
    } <= needed  # the walk goes through extras of extras
    # torch's CUDA build names its own libraries, each with an exact version.
    own = {name for name in needed if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert sorted(needed - own - set(pins(repository)) - {"stoker"}) == []


def test_installed_versions_are_the_pinned_ones(repository: Path) -> None:
    wanted = pins(repository)
    installed = {
        canonicalize_name(found.name): found.version.partition("+")[0]
        for found in metadata.distributions()
        if found.name
    }
    needed = pulled("stoker", frozenset(EXTRAS), set()) & set(wanted)
    assert {name: installed[name] for name in needed} == {name: wanted[name] for name in needed}


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.13.0"), ("ray", "2.60.0"), ("gigatoken", "0.10.0")]
)
def test_the_versions_the_project_is_measured_with(
    name: str, version: str, repository: Path
) -> None:
    assert pins(repository)[canonicalize_name(name)] == version


def test_every_dependency_in_pyproject_says_why_it_is_there(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in (*EXTRAS, "gpu") for line in project["optional-dependencies"][extra]),
    ]
    silent = [
        line
        for line in wanted
        if not re.search(rf'^ +"{re.escape(line)}", *# \w+', text, re.MULTILINE)
    ]
    assert silent == []

"""Checks a `ray up` file for Graviton nodes without touching AWS.

`python -m cluster.check FILE` prints `ok`, or one fault a line and ends with 1 (2: no such file,
not YAML).

Two layers: Ray's own schema (`prepare_config`, then `validate_config`, as in `ray up`), then what
the schema lets through and EC2 would punish later, when nodes are already paid for.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

# c8g, m8gd, c8gn, t4g, im4gn, is4gen, hpc7g: after the generation's digits comes a "g".
_GRAVITON = re.compile(r"[a-z]+\d+g[a-z]*\.\w+")
_LEGACY = ("head_node", "worker_nodes")


def faults(config: object) -> list[str]:
    """Returns what is wrong with a parsed `ray up` file, in its own words; empty when it is sound.

    Args:
        config: the YAML document. It is not changed.
    """
    if not isinstance(config, Mapping):
        return ["the file is not a mapping of options"]
    found = [
        f"`{name}` went away with Ray 2.0: use available_node_types and head_node_type"
        for name in _LEGACY
        if name in config
    ]
    found += _schema_faults(config)
    found += _security_faults(config)
    types = config.get("available_node_types")
    if not isinstance(types, Mapping):
        return [*found, "`available_node_types` is missing"]
    for name, node_type in types.items():
        found += [f"node type `{name}`: {fault}" for fault in _node_faults(node_type)]
    head = types.get(config.get("head_node_type"))
    if isinstance(head, Mapping) and _section(head, "resources").get("CPU") != 0:
        found.append(
            "the head needs `resources: {CPU: 0}`: tasks there compete with the control store"
        )
    return found


def _schema_faults(config: Mapping[str, Any]) -> list[str]:
    """What Ray's own loader says; prepare_config adds the fields that validate_config asks for."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with redirect_stdout(sys.stderr):  # Ray's hints; stdout is for the verdict
            validate_config(prepare_config(deepcopy(dict(config))))
    except ValidationError as error:
        where = "/".join(str(part) for part in error.absolute_path) or "top level"
        return [f"Ray's schema, {where}: {error.message}"]
    except Exception as error:  # it raises whatever a malformed document makes it stumble over
        return [f"Ray's loader: {type(error).__name__}: {error}"]
    return []


def _security_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Open doors: what is unsafe wherever it stands in the file, and what must stand in it."""
    for text in _strings(config):
        if re.search(r"RAY_AUTH_MODE\W{1,4}disabled", text):
            yield "`RAY_AUTH_MODE=disabled`: the Jobs API would run anybody's commands"
        if re.search(r"\b0\.0\.0\.0\b", text):
            yield f"open to every network: {text.strip()}"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = [
            text for text in _strings(config.get(name)) if re.search(r"\bray start\b", text)
        ]
        if not all("RAY_AUTH_MODE=token" in text for text in commands) or not commands:
            yield f"`{name}` must export RAY_AUTH_MODE=token before `ray start`"
    if _section(config, "provider").get("use_internal_ips") is not True:
        yield "`provider` needs `use_internal_ips: true`: nodes get no public address"


def _node_faults(node_type: object) -> Iterator[str]:
    """What one node type lacks to start as an arm64 node that nobody outside can reach."""
    node = _section(node_type, "node_config")
    instance, image = str(node.get("InstanceType", "")), str(node.get("ImageId", ""))
    if not _GRAVITON.fullmatch(instance):
        yield f"InstanceType `{instance}` is not a Graviton type such as c8g.8xlarge"
    if not image:
        yield "no ImageId: Ray would take its default, an x86 Ubuntu 18.04"
    elif "x86" in image:
        yield f"ImageId `{image}` is an x86 image"
    for name, why in (
        ("SubnetIds", "Ray would pick any subnet of the account"),
        ("SecurityGroupIds", "Ray would make a group with port 22 open to the world"),
        ("IamInstanceProfile", "the node could reach neither SSM nor S3"),
    ):
        if not node.get(name):
            yield f"no {name}: {why}"
    if _section(node, "MetadataOptions").get("HttpTokens") != "required":
        yield "MetadataOptions needs `HttpTokens: required` (IMDSv2)"
    disks = node.get("BlockDeviceMappings") or []
    if not disks or not all(_section(disk, "Ebs").get("Encrypted") is True for disk in disks):
        yield "every volume in BlockDeviceMappings needs `Encrypted: true`"


def _section(node: object, name: str) -> Mapping[str, Any]:
    """The mapping under `name`, or an empty one where it is missing or of another kind."""
    value = node.get(name) if isinstance(node, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _strings(node: object) -> Iterator[str]:
    """Every text below `node`; a mapping's entry as `key: value`, so an `env` block counts."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(value, str):
                yield f"{key}: {value}"
            else:
                yield from _strings(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _strings(value)
    elif isinstance(node, str):
        yield node


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    import yaml

    parser = argparse.ArgumentParser(
        prog="python -m cluster.check", description="Checks a `ray up` file without touching AWS."
    )
    parser.add_argument("file", type=Path, help="the file `ray up` is going to be given")
    path = parser.parse_args(argv).file
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    found = faults(config)
    print("\n".join(f"{path}: {fault}" for fault in found) if found else "ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""The `ray up` file passes Ray's own schema; the mistakes it was written to avoid are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.check import faults

Config = dict[str, Any]


@pytest.fixture(scope="module")
def path(repository: Path) -> Path:
    return repository / "cluster" / "ec2" / "ray-graviton.yaml"


@pytest.fixture
def config(path: Path) -> Config:
    # A deep copy without aliases: the file's anchors would change every node type together.
    loaded = yaml.safe_load(path.read_text())
    return {
        key: deepcopy(value) for key, value in loaded.items() if key != "available_node_types"
    } | {
        "available_node_types": {
            name: {"node_config": deepcopy(value["node_config"])}
            | {k: v for k, v in value.items() if k != "node_config"}
            for name, value in loaded["available_node_types"].items()
        }
    }


def test_the_file_passes_ray_s_own_schema(config: Config) -> None:
    validate_config(prepare_config(config))


def test_the_file_has_no_fault(config: Config) -> None:
    assert faults(config) == []


def test_what_the_file_mounts_is_in_the_repository(config: Config, repository: Path) -> None:
    local = set(config["file_mounts"].values()) - {"~/.ray/auth_token"}
    assert [name for name in sorted(local) if not (repository / name).exists()] == []


def test_checking_leaves_the_document_alone(config: Config) -> None:
    before = deepcopy(config)
    faults(config)
    assert config == before


def node(config: Config, name: str) -> dict[str, Any]:
    """The node_config of one node type."""
    section: dict[str, Any] = config["available_node_types"][name]["node_config"]
    return section


def set_in(section: dict[str, Any], **values: Any) -> None:
    section.update(values)


def start_command(config: Config, change: Callable[[str], str]) -> None:
    config["worker_start_ray_commands"] = [
        change(text) for text in config["worker_start_ray_commands"]
    ]


BROKEN: dict[str, tuple[Callable[[Config], object], str]] = {
    "an option that Ray dropped": (
        lambda c: c.update(target_utilization_fraction=0.8),
        "target_utilization_fraction",
    ),
    "a head_node block": (lambda c: c.update(head_node={"InstanceType": "m8g.large"}), "head_node"),
    "a worker_nodes block": (
        lambda c: c.update(worker_nodes={"ray_start_params": {}}),
        "worker_nodes",
    ),
    "a head without image": (lambda c: node(c, "head").pop("ImageId"), "no ImageId"),
    "a worker without image": (lambda c: node(c, "graviton").pop("ImageId"), "no ImageId"),
    "an x86 image": (
        lambda c: set_in(
            node(c, "head"), ImageId="resolve:ssm:/aws/service/al2023-ami-kernel-default-x86_64"
        ),
        "x86 image",
    ),
    "an Intel worker": (
        lambda c: set_in(node(c, "graviton"), InstanceType="c7i.8xlarge"),
        "c7i.8xlarge",
    ),
    "an AMD head": (lambda c: set_in(node(c, "head"), InstanceType="m7a.large"), "m7a.large"),
    "a GPU node": (
        lambda c: set_in(node(c, "graviton"), InstanceType="g4dn.xlarge"),
        "g4dn.xlarge",
    ),
    "fractional resources": (
        lambda c: c["available_node_types"]["graviton"].update(resources={"CPU": 0.5}),
        "Ray's schema",
    ),
    "tasks on the head": (
        lambda c: c["available_node_types"]["head"].update(resources={"CPU": 8}),
        "CPU: 0",
    ),
    "authentication off in a command": (
        lambda c: start_command(
            c, lambda text: text.replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")
        ),
        "anybody's commands",
    ),
    "authentication off in a setup command": (
        lambda c: c["setup_commands"].append(
            "echo 'export RAY_AUTH_MODE=\"disabled\"' >> ~/.bashrc"
        ),
        "anybody's commands",
    ),
    "authentication not asked for": (
        lambda c: start_command(c, lambda text: text.replace("export RAY_AUTH_MODE=token;", "")),
        "must export RAY_AUTH_MODE=token",
    ),
    "a dashboard open to the world": (
        lambda c: c["head_start_ray_commands"].append("ray start --head --dashboard-host=0.0.0.0"),
        "open to every network",
    ),
    "Ray's own security group": (lambda c: node(c, "head").pop("SecurityGroupIds"), "port 22 open"),
    "public addresses": (
        lambda c: c["provider"].update(use_internal_ips=False),
        "use_internal_ips",
    ),
    "IMDSv1": (
        lambda c: set_in(node(c, "graviton"), MetadataOptions={"HttpTokens": "optional"}),
        "IMDSv2",
    ),
    "a plain disk": (
        lambda c: node(c, "head")["BlockDeviceMappings"][0]["Ebs"].pop("Encrypted"),
        "Encrypted",
    ),
    "no node types": (lambda c: c.pop("available_node_types"), "available_node_types"),
    "a head that is no node type": (lambda c: c.update(head_node_type="heda"), "head_node_type"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_known_mistake_is_named(name: str, config: Config) -> None:
    change, words = BROKEN[name]
    change(config)
    assert any(words in fault for fault in faults(config)), faults(config)


@pytest.mark.parametrize(
    "document", [None, [], "text", {}, {"provider": 3}, {"available_node_types": {"a": None}}]
)
def test_a_document_of_another_kind_is_a_fault_and_no_crash(document: object) -> None:
    assert faults(document)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.check", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_says_ok_or_the_fault_and_1_or_2(
    path: Path, repository: Path, tmp_path: Path
) -> None:
    good = run(str(path), cwd=repository)
    assert (good.returncode, good.stdout) == (0, "ok\n")
    bad_file = tmp_path / "bad.yaml"
    bad_file.write_text(path.read_text() + "target_utilization_fraction: 0.8\n")
    bad = run(str(bad_file), cwd=repository)
    assert bad.returncode == 1
    assert "target_utilization_fraction" in bad.stdout
    missing = run(str(tmp_path / "none.yaml"), cwd=repository)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr

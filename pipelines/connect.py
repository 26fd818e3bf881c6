"""Joining a Ray cluster, or starting Ray on this machine, token authentication included."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import StokerError

# The folder that holds our packages, wherever they are imported from.
ROOT = Path(__file__).resolve().parent.parent

_PROBE_S = 5.0
_FORWARDED = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "STOKER_S3_PATIENCE_S",
)


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Ray, connected; yields in words where. A Ray that was running before keeps running.

    Joins the cluster that RAY_ADDRESS names, that this process is a job of, or that runs on this
    machine; otherwise starts one here and stops it at the end.

    Raises:
        StokerError: no such cluster, or it wants a token that isn't here.
    """
    enable_token()
    import ray

    if ray.is_initialized():
        yield "the Ray this process is connected to"
        return
    address = _choose_address()
    arguments: dict[str, Any] = {"address": address}
    if address == "local":
        # No dashboard: it takes seconds to start and a port, for a cluster nobody else can see.
        arguments["include_dashboard"] = False
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # A submitted job's environment is the submitter's choice; ours would collide with it.
        arguments["runtime_env"] = {"env_vars": worker_environment()}
    try:
        _init(arguments)
    except Exception as error:
        raise _refused(address, error) from error
    try:
        at = ray.get_runtime_context().gcs_address
        yield "Ray started here" if address == "local" else f"joined Ray at {at}"
    finally:
        ray.shutdown()


def cores() -> float:
    """CPUs that the Ray this process is connected to has to give, now."""
    import ray

    return float(ray.cluster_resources().get("CPU", 0.0))


def _init(arguments: dict[str, Any]) -> None:
    """ray.init; a start here is tried twice, since a busy machine misses Ray's fixed waits."""
    import ray

    local = arguments["address"] == "local"
    with environment(worker_environment() if local else {}):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)
        except Exception:
            if not local:
                raise
            ray.shutdown()
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with `variables`, for children that are started inside."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def enable_token() -> bool:
    """Makes Ray use the token there is; to be called before ray is imported.

    `ray start` turns authentication on when a token exists, but a driver with RAY_ADDRESS leaves it
    off unless told (seen with Ray 2.60: it then fails to connect after 20 s). A cluster without
    authentication accepts a client with a token, so this is safe everywhere.

    Returns:
        Whether there is a token.
    """
    token = bool(os.environ.get("RAY_AUTH_TOKEN")) or _token_file().is_file()
    # Ray reads the mode when it is imported; set later, its servers would ask for a token that this
    # process doesn't send.
    if token and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    return token


def worker_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for workers: where our packages and the object store are; no secrets."""
    path = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    kept = {name: environment[name] for name in _FORWARDED if name in environment}
    return {"PYTHONPATH": path, **kept}


def _token_file() -> Path:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def _choose_address() -> str | None:
    """For ray.init: None to join what it finds, "local" to start one."""
    named = os.environ.get("RAY_ADDRESS")
    if named == "local":
        return named
    if named and named != "auto":
        if "://" not in named and not _answers(named):
            raise StokerError(
                f"no Ray cluster answers at RAY_ADDRESS={named}: start it, correct the address, or "
                "unset RAY_ADDRESS to run on this machine"
            )
        return None
    running = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        # A cluster that was killed leaves the file behind; ray.init would wait for it for minutes.
        found = _answers(running.read_text().strip())
    except OSError:
        found = False
    if not found and named:
        raise StokerError("RAY_ADDRESS=auto, but no Ray runs on this machine: `ray start --head`")
    return None if found else "local"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S):
            return True
    except (OSError, ValueError):
        return False


def _refused(address: str | None, error: Exception) -> StokerError:
    reason = " ".join(str(error).split())[:200]
    if address == "local":
        return StokerError(f"Ray did not start on this machine: {reason}")
    where = os.environ.get("RAY_ADDRESS", "the running cluster")
    if type(error).__name__ == "AuthenticationError" or not enable_token():
        return StokerError(
            f"Ray at {where} did not let this job in, and there is no token: put the cluster's "
            "(`ray get-auth-token` there) into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    return StokerError(
        f"Ray at {where} did not let this job in: {reason}. Is its token the one in "
        f"{'RAY_AUTH_TOKEN' if os.environ.get('RAY_AUTH_TOKEN') else _token_file()}?"
    )


def quiet_ray_data() -> Any:
    """Ray Data's context, its own progress bars and plans switched off; ours says what counts."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context

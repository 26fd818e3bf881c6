"""What NVML and DCGM say of a GPU while a loop runs: beside the report's figures, never instead.

NVML's utilization is the share of time in which any kernel ran: one that spins, waiting for other
ranks, reads as 100 %, and so do many that are tiny. DCGM's SM_ACTIVE is the share of the card's
multiprocessors that had work. Both are averages: neither names a cause.

Never seen on a GPU so far: tested against stand-ins of the library and of the program.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import torch

EVERY_S = 0.1
SM_ACTIVE = "1002"  # DCGM_FI_PROF_SM_ACTIVE
BUSY, MEMORY, ACTIVE = "nvml_busy_percent", "nvml_memory_gib", "dcgm_sm_active_percent"
MEANING = (
    "the share of time in which any kernel ran: one that spins for other ranks reads as 100 %,"
    " so a high figure can hide a stall"
)


class NotSampled(Exception):
    """Why there is nothing to read."""


class GpuLoad:
    """Samples of the GPU with this `uuid` ("GPU-...") between entering and leaving; means of them.

    Nothing here fails a run: what can't be sampled is said in `facts`.
    """

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._rows: list[tuple[float, float]] = []
        self._active: list[float] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._program: subprocess.Popen[str] | None = None
        self._nvml: Any = None
        self.facts: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._nvml, handle, number = _open(self.uuid)
        except NotSampled as why:
            self.facts = {"NVML": f"not sampled: {why}"}
            return self
        self.facts = {"NVML": f"{1 / EVERY_S:g} samples a second; busy is {MEANING}"}
        self._start(self._sample, handle)
        try:
            self._program = _watch(number)
        except NotSampled as why:
            self.facts["DCGM"] = f"not sampled: {why}"
            return self
        self.facts["DCGM"] = "SM_ACTIVE: the share of multiprocessors that had work"
        self._start(self._read, self._program)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._program is not None:
            self._program.terminate()
        for thread in self._threads:
            thread.join()
        if self._program is not None:
            self._program.wait()
            if not self._active:
                self.facts["DCGM"] = "not sampled: dcgmi gave no figures; is nv-hostengine running?"
        if self._nvml is not None:
            self._nvml.nvmlShutdown()

    def counters(self) -> Mapping[str, float]:
        """Means of what was sampled, by name; nothing of what was not."""
        found: dict[str, float] = {}
        if self._rows:
            found[BUSY], found[MEMORY] = (float(x) for x in np.mean(self._rows, axis=0))
        if self._active:
            found[ACTIVE] = 100 * float(np.mean(self._active))
        return found

    def _start(self, work: Any, argument: object) -> None:
        thread = threading.Thread(target=work, args=(argument,), name="gpu-load", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _sample(self, handle: object) -> None:
        nvml = self._nvml
        while True:
            try:
                busy = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                used = nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30
            except nvml.NVMLError as error:
                self.facts["NVML"] = f"not sampled: {error}"
                return
            self._rows.append((busy, used))
            if self._over.wait(EVERY_S):
                return

    def _read(self, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        for line in program.stdout:
            if (value := sm_active(line)) is not None:
                self._active.append(value)


class NoLoad:
    """In place of `GpuLoad` where there is no GPU: says nothing."""

    facts: Mapping[str, str] = MappingProxyType({})

    def counters(self) -> Mapping[str, float]:
        """None."""
        return {}


def sm_active(line: str) -> float | None:
    """What a line of `dcgmi dmon -e 1002` says, 0 to 1; None of a heading or of "N/A"."""
    words = line.split()
    if len(words) < 3 or words[0] != "GPU":
        return None
    with suppress(ValueError):
        return float(words[2])
    return None


def uuid_of(device: torch.device) -> str:
    """Of a CUDA device, as NVML writes it."""
    said = str(torch.cuda.get_device_properties(device).uuid)
    return said if said.startswith(("GPU-", "MIG-")) else f"GPU-{said}"


def load_of(device: torch.device) -> AbstractContextManager[GpuLoad | NoLoad]:
    """What the driver says of `device`, of which only a GPU has one."""
    return GpuLoad(uuid_of(device)) if device.type == "cuda" else nullcontext(NoLoad())


def _open(uuid: str) -> tuple[Any, object, int]:
    """NVML, its handle of the GPU, and the GPU's number on this machine."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        raise NotSampled("nvidia-ml-py is not installed (stoker[gpu])") from None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return nvml, handle, int(nvml.nvmlDeviceGetIndex(handle))
    except nvml.NVMLError as error:
        raise NotSampled(f"{error}") from error


def _watch(number: int) -> subprocess.Popen[str]:
    program = shutil.which("dcgmi")
    if program is None:
        raise NotSampled("there is no dcgmi")
    milliseconds = str(round(1000 * EVERY_S))
    return subprocess.Popen(
        [program, "dmon", "-e", SM_ACTIVE, "-d", milliseconds, "-i", str(number)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

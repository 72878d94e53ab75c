"""`tensorizer.utils` over libtz: sizes, memory, and modules without memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from libtz.compat._errors import TypeOptionError
from libtz.errors import OptionError
from libtz.torch import no_init

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "CPUMemoryUsage",
    "GlobalGPUMemoryUsage",
    "MemoryUsage",
    "TorchGPUMemoryUsage",
    "convert_bytes",
    "get_device",
    "get_gpu_name",
    "get_mem_usage",
    "no_init_or_tensor",
]


def convert_bytes(num: float, decimal: bool = True) -> str:
    """A size for people: "1.5 MB", or "1.5 MiB"."""
    step = 1000.0 if decimal else 1024.0
    units = ["bytes", *(f"{prefix}{'' if decimal else 'i'}B" for prefix in "KMGTP")]
    while num >= step and len(units) > 1:
        num /= step
        del units[0]
    return f"{num:3.1f} {units[0]}"


def get_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def get_gpu_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "N/A"


class GlobalGPUMemoryUsage(NamedTuple):
    """Memory of a GPU, all processes together, in bytes."""

    total: int
    free: int
    used: int

    @classmethod
    def now(cls, device: Any = None) -> GlobalGPUMemoryUsage | None:
        if not torch.cuda.is_available():
            return None
        free, total = torch.cuda.mem_get_info(device)
        return cls(total, free, total - free)

    def __str__(self) -> str:
        return f"GPU: (U: {_mib(self.used)} F: {_mib(self.free)} T: {_mib(self.total)})"


class TorchGPUMemoryUsage(NamedTuple):
    """Memory of a GPU that PyTorch has in this process, now and at most, in bytes."""

    reserved: int
    reserved_max: int
    used: int
    used_max: int

    @classmethod
    def now(cls, device: Any = None) -> TorchGPUMemoryUsage | None:
        if not torch.cuda.is_available():
            return None
        stats = torch.cuda.memory_stats(device)
        kinds = ("reserved_bytes.all", "allocated_bytes.all")
        return cls(*(stats.get(f"{kind}.{at}", 0) for kind in kinds for at in ("current", "peak")))

    def __str__(self) -> str:
        return (
            f"TORCH: (R: {_mib(self.reserved)}/{_mib(self.reserved_max)},"
            f" A: {_mib(self.used)}/{_mib(self.used_max)})"
        )


class CPUMemoryUsage(NamedTuple):
    """Host memory in bytes: the most that this process and its children had resident, and what is
    available."""

    maxrss: int
    free: int

    @classmethod
    def now(cls) -> CPUMemoryUsage:
        if resource is None:
            raise OptionError("this system does not tell how much memory a process had")
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        maxrss = sum(resource.getrusage(which).ru_maxrss for which in who) * unit
        return cls(maxrss, _available())

    def __str__(self) -> str:
        return f"CPU: (maxrss: {_mib(self.maxrss)} F: {_mib(self.free)})"


class MemoryUsage(NamedTuple):
    """All of it; without a GPU the last two are None."""

    cpu: CPUMemoryUsage
    gpu: GlobalGPUMemoryUsage | None
    torch: TorchGPUMemoryUsage | None

    @classmethod
    def now(cls, device: Any = None) -> MemoryUsage:
        gpu = GlobalGPUMemoryUsage.now(device)
        return cls(CPUMemoryUsage.now(), gpu, TorchGPUMemoryUsage.now(device))

    def __str__(self) -> str:
        return " ".join(str(part) for part in self if part is not None)


def get_mem_usage() -> str:
    """Memory in one line."""
    return str(MemoryUsage.now())


def _mib(size: int) -> str:
    return f"{size >> 20:,}MiB"


def _available() -> int:
    # Linux counts what it could take from its page cache; others only tell what is unused.
    path = Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        raise OptionError("this system does not tell how much memory is available") from None


def no_init_or_tensor(
    loading_code: Callable[[], Any] | None = None,
) -> Any | AbstractContextManager[None]:
    """Modules built in it have their parameters on the meta device: a context manager, or called
    with a function, what that returns. This is `libtz.torch.no_init`: buffers are real, so that
    those that no file has are not lost."""
    if loading_code is None:
        return no_init()
    if not callable(loading_code):
        raise TypeOptionError(f"loading_code is a function, not {type(loading_code).__name__}")
    with no_init():
        return loading_code()

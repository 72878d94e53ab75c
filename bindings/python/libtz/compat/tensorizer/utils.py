"""`tensorizer.utils`, implemented with libtz: sizes, memory usage, and modules without memory."""

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
    """A readable size: "1.5 MB", or, if not `decimal`, "1.5 MiB"."""
    step = 1000.0 if decimal else 1024.0
    units = ["bytes", *(f"{prefix}{'' if decimal else 'i'}B" for prefix in "KMGTP")]
    while num >= step and len(units) > 1:
        num /= step
        del units[0]
    return f"{num:3.1f} {units[0]}"


def get_device() -> torch.device:
    """CUDA if it is available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def get_gpu_name() -> str:
    """The name of the current GPU, or "N/A"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "N/A"


class GlobalGPUMemoryUsage(NamedTuple):
    """The memory of a GPU, for all processes together, in bytes."""

    total: int
    free: int
    used: int

    @classmethod
    def now(cls, device: Any = None) -> GlobalGPUMemoryUsage | None:
        """The current usage; None without CUDA."""
        if not torch.cuda.is_available():
            return None
        free, total = torch.cuda.mem_get_info(device)
        return cls(total, free, total - free)

    def __str__(self) -> str:
        return f"GPU: (U: {_mib(self.used)} F: {_mib(self.free)} T: {_mib(self.total)})"


class TorchGPUMemoryUsage(NamedTuple):
    """The GPU memory of PyTorch in this process, current and peak, in bytes."""

    reserved: int
    reserved_max: int
    used: int
    used_max: int

    @classmethod
    def now(cls, device: Any = None) -> TorchGPUMemoryUsage | None:
        """The current usage; None without CUDA."""
        if not torch.cuda.is_available():
            return None
        stats = torch.cuda.memory_stats(device)
        counters = ("reserved_bytes.all", "allocated_bytes.all")
        names = (f"{counter}.{at}" for counter in counters for at in ("current", "peak"))
        return cls(*(stats.get(name, 0) for name in names))

    def __str__(self) -> str:
        return (
            f"TORCH: (R: {_mib(self.reserved)}/{_mib(self.reserved_max)},"
            f" A: {_mib(self.used)}/{_mib(self.used_max)})"
        )


class CPUMemoryUsage(NamedTuple):
    """Host memory in bytes: the peak resident size of this process and its children, and the
    available memory."""

    maxrss: int
    free: int

    @classmethod
    def now(cls) -> CPUMemoryUsage:
        """The current usage. Raises OptionError if the system does not report it."""
        if resource is None:
            raise OptionError("this system does not report the memory that a process used")
        processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        maxrss = sum(resource.getrusage(each).ru_maxrss for each in processes) * unit
        return cls(maxrss, _available())

    def __str__(self) -> str:
        return f"CPU: (maxrss: {_mib(self.maxrss)} F: {_mib(self.free)})"


class MemoryUsage(NamedTuple):
    """The usage of host and GPU memory. Without a GPU, the last two are None."""

    cpu: CPUMemoryUsage
    gpu: GlobalGPUMemoryUsage | None
    torch: TorchGPUMemoryUsage | None

    @classmethod
    def now(cls, device: Any = None) -> MemoryUsage:
        """The current usage. Raises OptionError if the system does not report that of the host."""
        gpu = GlobalGPUMemoryUsage.now(device)
        return cls(CPUMemoryUsage.now(), gpu, TorchGPUMemoryUsage.now(device))

    def __str__(self) -> str:
        return " ".join(str(part) for part in self if part is not None)


def get_mem_usage() -> str:
    """The memory usage as one line of text."""
    return str(MemoryUsage.now())


def _mib(size: int) -> str:
    return f"{size >> 20:,}MiB"


def _available() -> int:
    # Linux includes the memory that it could take from the page cache; others only unused memory.
    path = Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        raise OptionError("this system does not report the available memory") from None


def no_init_or_tensor(
    loading_code: Callable[[], Any] | None = None,
) -> Any | AbstractContextManager[None]:
    """A context in which new modules have their parameters on the meta device. With a function,
    calls it in that context and returns its result. This is `libtz.torch.no_init`: buffers are
    real, so that those that no file contains are not lost. Raises TypeError."""
    if loading_code is None:
        return no_init()
    if not callable(loading_code):
        found = type(loading_code).__name__
        raise TypeOptionError(f"loading_code must be a function, not {found}")
    with no_init():
        return loading_code()

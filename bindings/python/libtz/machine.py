"""Determines how much memory this process can use."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_size"]

CGROUPS = Path("/sys/fs/cgroup")


def memory_size(*, cgroups: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """The memory that this process can use, in bytes, without swap. It is the minimum of the
    machine's memory, the limits of the process's control groups (which containers use), and its
    limit of address space. `sys.maxsize` if the system does not say."""
    sizes = [sys.maxsize, *_physical(), *_control_groups(cgroups, membership), *_address_space()]
    return min(sizes)


def _physical() -> Iterator[int]:
    # Windows has no sysconf, and some systems lack these names.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _control_groups(cgroups: Path, membership: Path) -> Iterator[int]:
    """The limits of this process's control group and of its parents, in version 2 and version 1."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = membership.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container, the path may be that of the host, and only the root exists.
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max": no limit
                yield int((folder / name).read_text())
            if folder == root:
                break


def _address_space() -> Iterator[int]:
    with contextlib.suppress(ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit

"""A loopback of limited rate: a network namespace whose `lo` has the kernel's token bucket filter.

`shaped.py` does this in user space, without root and with a delay. But a proxy takes CPU time from
client and server, so benchmarks let the kernel limit the rate.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000

# The bucket holds 1 ms of data, but at least 4 packets; loopback packets have up to 64 KiB.
_BURST_MIN = 256 << 10


@contextmanager
def limited_link(gbit: float) -> Iterator[None]:
    """Gives processes that this thread starts in the block their own loopback of `gbit` Gbit/s."""
    program = shutil.which("tc") or shutil.which("tc", path="/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        raise LookupError("needs root, and tc (Debian and Ubuntu: apt-get install iproute2)")
    burst = max(_BURST_MIN, int(gbit * 1e9 / 8 / 1000))
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise LookupError(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            bucket = ["tbf", "rate", f"{gbit}gbit", "burst", str(burst), "latency", "50ms"]
            subprocess.run([program, "qdisc", "add", "dev", "lo", "root", *bucket], check=True)
            yield
        finally:
            libc.setns(outside, _CLONE_NEWNET)
    finally:
        os.close(outside)

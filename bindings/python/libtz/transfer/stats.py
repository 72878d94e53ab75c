"""What a load did, as one value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TransferStats", "WorkerTimes"]


@dataclass(frozen=True)
class TransferStats:
    """Numbers of one load. Times of stages are sums over threads, so they may exceed `seconds`."""

    # To host memory "copy", "direct" (most of it past the page cache) or "map"; to a device
    # "pinned", or "staged" in tests.
    path: str = ""
    seconds: float = 0.0
    seconds_receive: float = 0.0  # waiting for the source and copying from it
    seconds_process: float = 0.0  # checking and decoding
    seconds_upload: float = 0.0  # handing data to the device
    bytes_wanted: int = 0  # in memory, decoded
    bytes_stored: int = 0  # of the wanted tensors in the file: what compression left of them
    bytes_read: int = 0  # from the source: chunk entries, and what lies between wanted chunks, too
    bytes_direct: int = 0  # of those read, past the page cache
    requests: int = 0  # sent, repeated ones included
    retries: int = 0
    restarts: int = 0  # requests far slower than the others, begun anew on another connection
    throttled: int = 0  # answers that asked us to slow down
    connections: int = 0  # opened for this load; what opening the file left is used again
    threads: int = 0
    host_memory: int = 0  # the most beyond the result: staging, scratch and bounce memory

    @property
    def gigabytes_per_second(self) -> float:
        """Of wanted bytes, over the wall time."""
        return self.bytes_wanted / self.seconds / 1e9 if self.seconds else 0.0


@dataclass
class WorkerTimes:
    """What one thread notes for itself."""

    receive: float = 0.0
    process: float = 0.0
    upload: float = 0.0
    bytes_read: int = 0

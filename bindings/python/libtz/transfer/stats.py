"""What a load did, as one value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TransferStats", "WorkerTimes"]


@dataclass(frozen=True)
class TransferStats:
    """Numbers of one load. Times of stages are sums over threads, so they may exceed `seconds`."""

    path: str = ""  # "copy", "map", "staged" or "pinned"
    seconds: float = 0.0
    seconds_receive: float = 0.0  # waiting for the source and copying from it
    seconds_process: float = 0.0  # checking and decoding
    seconds_upload: float = 0.0  # handing data to the device
    bytes_wanted: int = 0  # in memory
    bytes_read: int = 0  # from the source: chunk entries, and what lies between wanted chunks, too
    requests: int = 0  # sent, repeated ones included
    retries: int = 0
    throttled: int = 0  # answers that asked us to slow down
    connections: int = 0  # opened for this load
    threads: int = 0
    host_memory: int = 0  # beyond the result: staging and scratch memory

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

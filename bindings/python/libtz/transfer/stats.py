"""Statistics of a load."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TransferStats", "WorkerTimes"]


@dataclass(frozen=True)
class TransferStats:
    """Statistics of one load. Times of stages are summed over threads and may exceed `seconds`."""

    # To host memory: "copy", "direct" (mostly around the page cache) or "map". To a device:
    # "pinned", or "staged" in tests.
    path: str = ""
    seconds: float = 0.0
    seconds_receive: float = 0.0  # waiting for the source and copying from it
    seconds_process: float = 0.0  # checking and decoding
    seconds_upload: float = 0.0  # handing data to the device
    bytes_wanted: int = 0  # in memory, decoded
    bytes_stored: int = 0  # of the wanted tensors, as compressed in the file
    bytes_read: int = 0  # from the source, chunk entries and gaps between wanted chunks included
    bytes_direct: int = 0  # of those, read around the page cache
    requests: int = 0  # sent, retries included
    retries: int = 0
    restarts: int = 0  # requests far slower than others, restarted on another connection
    throttled: int = 0  # responses that asked us to slow down
    connections: int = 0  # opened for this load; those from opening the file are reused
    threads: int = 0
    host_memory: int = 0  # peak beyond the result: staging, scratch and bounce memory

    @property
    def gigabytes_per_second(self) -> float:
        """Wanted bytes per wall time, in GB/s."""
        return self.bytes_wanted / self.seconds / 1e9 if self.seconds else 0.0


@dataclass
class WorkerTimes:
    """Measurements of one thread."""

    receive: float = 0.0
    process: float = 0.0
    upload: float = 0.0
    bytes_read: int = 0

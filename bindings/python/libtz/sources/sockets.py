"""Sockets on which a waiting thread can be woken by another."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from libtz.sources.base import SourceStats
from libtz.sources.failures import describe
from libtz.sources.retry import TryFailed

__all__ = ["Sockets"]


class Sockets:
    """The sockets in use, so that `abort` can wake the threads that wait on them.

    Each entry is a duplicate of the connection's descriptor. It works while the connection is being
    made and after TLS has wrapped it, and its number cannot be reused in the meantime.
    """

    def __init__(self, stats: SourceStats) -> None:
        self._lock = threading.Lock()
        self._handles: dict[int, socket.socket] = {}
        self._stats = stats
        self.is_aborted = False

    def watch(self, owner: object, descriptor: int) -> None:
        """Let `abort` shut this socket down, until `forget(owner)`. Raises `TryFailed` after
        `abort`."""
        self.forget(owner)
        with self._lock:
            if self.is_aborted:
                raise TryFailed("the source was closed", retryable=False)
            # The family and type do not matter for a shutdown, and finding them out costs calls.
            handle = socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
            self._handles[id(owner)] = handle

    def forget(self, owner: object) -> None:
        """Drop the owner's entry, if it has one. The owner closes its socket itself."""
        with self._lock:
            handle = self._handles.pop(id(owner), None)
        if handle is not None:
            handle.close()

    def abort(self) -> None:
        """Shut every watched socket down, and refuse new ones."""
        with self._lock:
            self.is_aborted = True
            for handle in self._handles.values():
                with contextlib.suppress(OSError):  # no longer connected
                    handle.shutdown(socket.SHUT_RDWR)
                handle.close()
            self._handles.clear()

    def connect(
        self, owner: object, address: tuple[str, int], timeout_s: float | None, options: Any
    ) -> socket.socket:
        """Open a TCP connection that `abort` can interrupt. Tries all addresses of the host;
        raises `TryFailed` if none can be reached."""
        host, port = address
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            # A missing name is final; a resolver that does not respond may recover.
            is_final = isinstance(error, UnicodeError) or error.errno == socket.EAI_NONAME
            reason = f"the host name {host} cannot be resolved: {describe(error)}"
            raise TryFailed(reason, retryable=not is_final) from None
        reason = "it has no address"
        for family, socket_type, protocol, _, target in found:
            sock = None
            try:
                sock = socket.socket(family, socket_type, protocol)
                for option in options or ():
                    sock.setsockopt(*option)
                sock.settimeout(timeout_s)
                self.watch(owner, sock.fileno())
                sock.connect(target)
            except BaseException as error:
                self.forget(owner)
                if sock is not None:
                    sock.close()
                if not isinstance(error, OSError):
                    raise
                reason = describe(error)
            else:
                self._stats.add(connections=1)
                return sock
        raise TryFailed(f"no connection to {host}:{port}: {reason}")

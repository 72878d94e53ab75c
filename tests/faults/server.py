"""An HTTP range server that misbehaves on request.

It answers GET with one object, honestly, unless a `Fault` is queued for the request: faults are
used up in the order of arrival, `always` applies to every request that finds the queue empty, and
`decide` may be replaced to look at the request first. It speaks over plain sockets, so that it can
break any rule, and notes every request it gets.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Fault", "FaultServer", "Request"]


@dataclass(frozen=True)
class Request:
    """A client's request. Header names are in lower case."""

    target: str
    headers: Mapping[str, str]
    connection: int  # numbered by arrival, to see which requests shared one

    @property
    def range(self) -> tuple[int, int] | None:
        """The requested range, half-open."""
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None


@dataclass(frozen=True)
class Fault:
    """The faults of one response. Several can be combined."""

    status: int | None = None  # this status, and an empty body unless `body` is given
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)  # set, or with None remove
    raw: bytes | None = None  # these bytes instead of a whole response, then close
    ignore_range: bool = False  # 200 with the whole body
    chunked: bool = False
    until_close: bool = False  # no length and no chunks: the body ends with the connection
    append: bytes = b""  # more bytes after the body, inside the body's framing
    drop_after: int | None = None  # close the connection after this many bytes of the body
    reset: bool = False  # ... with RST instead of FIN
    stall_after: int | None = None  # send nothing more after this many bytes of the body
    trickle_s: float | None = None  # one byte at a time, with this pause
    act: Callable[[], object] | None = None  # called when the request has arrived


class FaultServer:
    """Serves `data` on a free port of the loopback until `close`."""

    def __init__(
        self,
        data: bytes,
        *,
        tls: ssl.SSLContext | None = None,
        etag: str | None = '"v1"',
        modified: str | None = None,
        has_ranges: bool = True,
        honours_conditions: bool = True,
    ) -> None:
        self.data = data
        self.etag = etag
        self.modified = modified
        self.has_ranges = has_ranges
        self.honours_conditions = honours_conditions
        self.requests: list[Request] = []
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.decide: Callable[[Request], Fault | None] = lambda request: self.always
        self._tls = tls
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def url(self, path: str = "/model.bin") -> str:
        """The object's URL; all paths lead to it."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        """Close all connections, and wait for the threads."""
        self._is_closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._connections += 1
            self._start(self._serve, sock, self._connections)

    def _serve(self, sock: socket.socket, connection: int) -> None:
        try:
            sock.settimeout(30)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with self._lock:
                self._sockets.add(sock)
            while not self._is_closing.is_set() and self._answer_one(sock, connection):
                pass
        except OSError:
            pass  # the client closed the connection, as in many tests
        finally:
            with self._lock:
                self._sockets.discard(sock)
            sock.close()

    def _answer_one(self, sock: socket.socket, connection: int) -> bool:
        """Answer one request. Returns False if the connection must close."""
        head = b""
        while b"\r\n\r\n" not in head:
            received = sock.recv(65536)
            if not received:
                return False
            head += received
        lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        request = Request(lines[0].split(" ")[1], headers, connection)
        with self._lock:
            self.requests.append(request)
            fault = self.faults.popleft() if self.faults else self.decide(request)
        fault = fault or Fault()
        if fault.act is not None:
            fault.act()
        if fault.raw is not None:
            self._send_body(sock, fault, fault.raw)
            return False
        status, answer, body = self._honest(request, fault)
        return self._send(sock, fault, status, answer, body)

    def _honest(self, request: Request, fault: Fault) -> tuple[int, dict[str, str], bytes]:
        answer: dict[str, str] = {}
        if self.etag is not None:
            answer["ETag"] = self.etag
        if self.modified is not None:
            answer["Last-Modified"] = self.modified
        if fault.status is not None:
            return fault.status, {}, fault.body or b""
        if self.honours_conditions and request.headers.get("if-match", self.etag) != self.etag:
            return 412, {}, b""
        size = len(self.data)
        if request.range is None or not self.has_ranges or fault.ignore_range:
            return 200, answer, self.data
        begin, end = request.range
        if begin >= size:
            return 416, {"Content-Range": f"bytes */{size}"}, b""
        end = min(end, size)
        answer["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        return 206, answer, self.data[begin:end]

    def _send(
        self, sock: socket.socket, fault: Fault, status: int, answer: dict[str, str], body: bytes
    ) -> bool:
        body += fault.append
        if fault.chunked:
            answer["Transfer-Encoding"] = "chunked"
            half = len(body) // 2
            parts = [part for part in (body[:half], body[half:]) if part]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        elif fault.until_close:
            answer["Connection"] = "close"
        else:
            answer["Content-Length"] = str(len(body))
        for name, value in fault.headers.items():
            if value is None:
                answer.pop(name, None)
            else:
                answer[name] = value
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in answer.items())]
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if not self._send_body(sock, fault, body):
            return False
        return answer.get("Connection") != "close"

    def _send_body(self, sock: socket.socket, fault: Fault, body: bytes) -> bool:
        if fault.trickle_s is not None:
            for index in range(len(body)):
                sock.sendall(body[index : index + 1])
                if self._is_closing.wait(fault.trickle_s):
                    return False
        elif fault.stall_after is not None:
            sock.sendall(body[: fault.stall_after])
            self._is_closing.wait(30)
            return False
        elif fault.drop_after is not None:
            sock.sendall(body[: fault.drop_after])
            if fault.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        else:
            sock.sendall(body)
        return True

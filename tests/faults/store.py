"""An HTTP server with responses from a function, to imitate stores that refuse requests."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Answer", "Call", "error_answer", "range_answer", "scripted_store"]


@dataclass(frozen=True)
class Call:
    """A request. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def error_answer(status: int, code: str, more: str = "", **headers: str) -> Answer:
    """A refusal in the words of a store."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code>{more}</Error>".encode()
    return Answer(status, body, {name.replace("_", "-"): text for name, text in headers.items()})


def range_answer(call: Call, data: bytes) -> Answer:
    """The requested range of `data`."""
    first, _, last = call.headers["range"].removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last) + 1, len(data))
    headers = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}", "ETag": '"1"'}
    return Answer(206, data[begin:end], headers)


@contextlib.contextmanager
def scripted_store(
    answer: Callable[[Call], Answer], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[Call]]]:
    """The endpoint of a store, and the calls it received."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client closed the connection
                super().handle()

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.command, self.path, headers, body)
            calls.append(call)
            reply = answer(call)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        # TLS handshakes run in the threads of the connections, not in the accepting one.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    # shutdown() takes up to one polling interval.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)

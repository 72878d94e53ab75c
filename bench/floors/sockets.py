"""Reads HTTP, HTTPS or S3 into fresh memory, with recv_into on four raw sockets. Computes the
CRC-32C of each megabyte as it arrives: the least work of a loader that verifies."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from bench.floors.memory import REQUEST_SIZE, fresh, in_threads

from libtz._native import lib

CONNECTIONS = 4
PIECE_SIZE = 1 << 20


def load(url: str, certificate: str = "") -> object:
    connect, target, host = _server(url, certificate)
    with connect() as sock:
        fields = _request(sock, target, host, 0, 1)
        sock.recv(1)
    size = int(fields["content-range"].rpartition("/")[2])
    memory = fresh(size)

    def work(offsets: range) -> None:
        with connect() as sock:
            for begin in offsets:
                end = min(begin + REQUEST_SIZE, size)
                _request(sock, target, host, begin, end)
                while begin < end:
                    piece = memory[begin : min(begin + PIECE_SIZE, end)]
                    _fill(sock, piece)
                    lib.crc32c(piece)
                    begin += len(piece)

    in_threads(CONNECTIONS, size, work)
    return memory


def load_s3(endpoint: str, bucket: str, key: str, keys: tuple[str, str]) -> object:
    """The same with a presigned URL. Signing it, once, is part of the measured work."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest("GET", f"{endpoint}/{bucket}/{key}")
    S3SigV4QueryAuth(Credentials(*keys), "s3", "us-east-1", expires=3600).add_auth(request)
    return load(request.prepare().url)


def _server(url: str, certificate: str) -> tuple[Callable[[], socket.socket], str, str]:
    """A function that connects to the URL's server, and the target and host of requests."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    address = (host, parts.port or (443 if parts.scheme == "https" else 80))
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if parts.scheme == "http":
        return (lambda: socket.create_connection(address)), target, parts.netloc
    context = ssl.create_default_context(cafile=certificate or None)

    def connect() -> socket.socket:
        return context.wrap_socket(socket.create_connection(address), server_hostname=host)

    return connect, target, parts.netloc


def _fill(sock: socket.socket, piece: memoryview) -> None:
    while piece:
        count = sock.recv_into(piece)
        if count == 0:
            raise ConnectionError("the server closed the connection")
        piece = piece[count:]


def _request(sock: socket.socket, target: str, host: str, begin: int, end: int) -> dict[str, str]:
    """Requests a range and reads the response's head; byte by byte, to leave the body alone."""
    asked = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={begin}-{end - 1}\r\n\r\n"
    sock.sendall(asked.encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    status, *lines = head.decode("latin-1").split("\r\n")
    if status.split()[1] != "206":
        raise ConnectionError(status)
    fields = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip() for name, _, value in fields}

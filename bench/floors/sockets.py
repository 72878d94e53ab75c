"""HTTP by four raw sockets with recv_into fresh memory, and the CRC-32C of each megabyte as it
arrives: what a loader that verifies must do at least."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from bench.floors.memory import REQUEST_SIZE, fresh, in_threads

from libtz._native import lib

CONNECTIONS = 4
PIECE_SIZE = 1 << 20


def load(url: str) -> object:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    with socket.create_connection(address) as sock:
        size = int(_head(sock, parts.path, parts.netloc, "HEAD", "")["content-length"])
    memory = fresh(size)

    def work(offsets: range) -> None:
        with socket.create_connection(address) as sock:
            for begin in offsets:
                end = min(begin + REQUEST_SIZE, size)
                asked = f"Range: bytes={begin}-{end - 1}\r\n"
                _head(sock, parts.path, parts.netloc, "GET", asked)
                while begin < end:
                    piece = memory[begin : min(begin + PIECE_SIZE, end)]
                    _fill(sock, piece)
                    lib.crc32c(piece)
                    begin += len(piece)

    in_threads(CONNECTIONS, size, work)
    return memory


def _fill(sock: socket.socket, piece: memoryview) -> None:
    while piece:
        count = sock.recv_into(piece)
        if count == 0:
            raise ConnectionError("the server closed the connection")
        piece = piece[count:]


def _head(sock: socket.socket, path: str, host: str, method: str, extra: str) -> dict[str, str]:
    """Sends a request and reads the answer's head, byte by byte so as not to take of the body."""
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    status, *lines = head.decode("latin-1").split("\r\n")
    if status.split()[1] not in ("200", "206"):
        raise ConnectionError(status)
    fields = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip() for name, _, value in fields}

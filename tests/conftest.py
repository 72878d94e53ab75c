"""Fixtures that every test may ask for, and the marker of those that start a real server."""

import signal

import pytest
from tests.servers import certificate, nginx, seaweed

__all__ = ["certificate", "nginx", "seaweed"]

SERVERS = {"nginx", "seaweed"}

# A shell's background jobs, and whatever they start, ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and SERVERS & set(item.fixturenames):
            item.add_marker("server")

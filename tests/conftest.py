"""Fixtures that every test may ask for, and the marker of those that start a real server."""

import os
import signal
from pathlib import Path

import pytest
from tests.servers import certificate, nginx, seaweed

__all__ = ["certificate", "nginx", "seaweed"]

SERVERS = {"nginx", "seaweed"}

# A shell's background jobs, and whatever they start, ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No configuration of AWS or of proxies but that in this folder, and what a test sets."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and SERVERS & set(item.fixturenames):
            item.add_marker("server")

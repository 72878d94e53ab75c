"""Fixtures for all tests, the marker of tests that start a server, and an order of files with which
two workers end at the same time."""

import functools
import gc
import os
import re
import signal
from pathlib import Path
from types import ModuleType

import pytest
from tests.servers import certificate, nginx, seaweed

__all__ = ["certificate", "nginx", "seaweed"]

SERVERS = {"nginx", "seaweed"}
SCRIPTED_SERVERS = "tests.faults."

# Matches modules in which every test is slow.
SLOW_MODULE = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)

# Background jobs of a shell ignore Ctrl-C, and so do their children. Some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Only the AWS configuration in this folder and the settings of the test apply; no proxies."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Does not import slow modules if none of their tests will run: some import transformers, which
    takes seconds."""
    if "not slow" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return True if SLOW_MODULE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and needs_server(item):
            item.add_marker("server")
    if hasattr(config, "workerinput"):
        # Workers take one file after another. The last one must not be a long one.
        items.sort(key=lambda item: not is_of_slow_module(item))


def pytest_collection_finish() -> None:
    """Imported modules stay, so the garbage collector can skip their objects in every test."""
    gc.collect()
    gc.freeze()


def needs_server(item: pytest.Function) -> bool:
    """Whether a test starts a real server, or is in a module that uses a scripted one."""
    return bool(SERVERS & set(item.fixturenames)) or uses_scripted_server(item.module)


@functools.cache
def uses_scripted_server(module: ModuleType) -> bool:
    origins = (getattr(each, "__module__", None) for each in vars(module).values())
    return any(isinstance(name, str) and name.startswith(SCRIPTED_SERVERS) for name in origins)


def is_of_slow_module(item: pytest.Item) -> bool:
    module = item.getparent(pytest.Module)
    return module is not None and module.get_closest_marker("slow") is not None

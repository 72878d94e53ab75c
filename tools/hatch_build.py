"""Hatchling hook: builds the library for TZ_TARGET (default: this machine) and tags the wheel."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_native


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = os.environ.get("TZ_TARGET") or build_native.host_target()
        if target not in build_native.TARGETS:
            names = ", ".join(build_native.TARGETS)
            raise SystemExit(f"libtz: TZ_TARGET={target} is not one of: {names}")
        build_native.build(target)
        build_data["pure_python"] = False
        # No CPython API is used, so one wheel serves every Python 3.
        build_data["tag"] = f"py3-none-{build_native.TARGETS[target].wheel_platform}"

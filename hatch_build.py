"""Compiles the native decoder when genkit is installed; without a C compiler genkit does without it."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeDecoder(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build = runpy.run_path(str(Path(self.root, "genkit/text/native/build.py")))
        if problem := build["compile_library"]():
            self.app.display_warning(f"genkit is installed without its native decoder: {problem}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(f"genkit/text/native/{build['LIBRARY'].name}")

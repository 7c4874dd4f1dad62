"""Compile the native decoder. Stdlib only: the build of the package runs this file by itself."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / ("decode.dylib" if sys.platform == "darwin" else "decode.so")
_MACHINES = {"x86_64": ["-mavx2", "-mfma"], "amd64": ["-mavx2", "-mfma"], "aarch64": [], "arm64": []}


def compile_library() -> str | None:
    """Compile `decode.c` to `LIBRARY` with $CC, cc, gcc or clang; why that cannot be done, or None.

    Appears whole or not at all; what was there before goes.
    """
    LIBRARY.unlink(missing_ok=True)
    options = _MACHINES.get(platform.machine().lower())
    if options is None or sys.platform == "win32":
        return f"the native decoder is not for {sys.platform} on {platform.machine()}"
    compiler = next(filter(shutil.which, [os.environ.get("CC", "").split(" ")[0], "cc", "gcc", "clang"]), None)
    if compiler is None:
        return "there is no C compiler"
    partial = LIBRARY.with_suffix(".part")
    flags = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", *options]
    command = [compiler, *flags, "-o", str(partial), str(HERE / "decode.c"), "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        partial.unlink(missing_ok=True)
        return f"{shlex.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}"
    partial.replace(LIBRARY)
    return None


if __name__ == "__main__":
    sys.exit(compile_library())

"""A first run of a `.gguf` file from elsewhere, in a process of its own.

llama.cpp ends its whole process over some files, with checks that no header check
can foresee. A file that went through it once is remembered by its content.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from genkit import cache
from genkit.errors import GenkitError, InputError, ResourceError

_CONTEXT = 64  # tokens; the trial reads and writes a few
_TEXT = 'Once upon a time, 3 cats\n\tsaid: "it\'s \u00e9\u6f22\U0001f600"'
_PATIENCE = 120  # seconds, and one for each 10 MB


def try_once(path: Path) -> None:
    """Have a child process load the file and write some tokens, unless it is known to go well.

    Raises:
        InputError: llama.cpp refuses it, crashes on it, or does not come to an end.
        ResourceError: as the engine.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("xllamacpp")
    except PackageNotFoundError:
        release = ""
    key = hashlib.sha256(repr((cache.content_hash(path), release)).encode()).hexdigest()[:32]
    cache.made_once(f"trials/{key}", lambda mark: _try(path, mark))


def _try(path: Path, mark: Path) -> None:
    # a module is looked for where this process found its own
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "GGML_NO_BACKTRACE": "1"}
    try:
        with tempfile.TemporaryDirectory(prefix="genkit-") as folder:  # what a crash leaves goes with it
            done = subprocess.run(  # noqa: S603 - our own interpreter, fixed arguments
                [sys.executable, "-m", __name__, os.path.abspath(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=env | {"TMPDIR": folder},
                timeout=_PATIENCE + path.stat().st_size // 10_000_000,
            )
    except subprocess.TimeoutExpired:
        raise InputError(f"llama.cpp does not come to an end with {path}", "use another file") from None
    if done.returncode in (InputError.exit_code, ResourceError.exit_code):
        message, _, hint = done.stdout.decode("utf-8", "replace").partition("\n")
        kind = InputError if done.returncode == InputError.exit_code else ResourceError
        raise kind(message, hint or None)
    if done.returncode:
        reason = _signal(-done.returncode) if done.returncode < 0 else f"exit code {done.returncode}"
        raise InputError(f"llama.cpp crashes on {path} ({reason})", "copy or download it again, or use another file")
    mark.write_bytes(b"")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _main(path: Path) -> int:
    from genkit.text.config import GenerationConfig
    from genkit.text.engines import TokenRequest
    from genkit.text.engines.llamacpp import LlamaCppEngine

    config = GenerationConfig(max_new_tokens=16, temperature=0, logprobs=5, repetition_penalty=1.1)
    try:
        engine = LlamaCppEngine(path, parallel=1, context=_CONTEXT)
        for prompt in (_TEXT, "a"):
            for event in engine.generate([TokenRequest(prompt, config, 0)]):
                if event.error:
                    raise event.error
        engine.close()
    except GenkitError as error:
        sys.stdout.write(f"{error.message}\n{error.hint or ''}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(_main(Path(sys.argv[1])))

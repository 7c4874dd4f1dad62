"""Files that can be made again, kept in the user's cache folder. Stdlib only.

Nothing here fails because the cache cannot be used: a home that is read-only, full
or no folder at all costs time, not the result. What nobody has used for a month makes
room when something new is made.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from genkit.errors import OutputError
from genkit.files import TEMPORARY, input_errors, sha256, sync_folder, temporary_name

_ABANDONED = 3600  # seconds; longer than anything takes to be made
_UNUSED = 30 * 86400  # seconds
_SETTLED = 2_000_000_000  # ns; a file changed more recently may change again within the clock's resolution


def folder() -> Path:
    """$GENKIT_CACHE, or `genkit` in the platform's folder for caches; it need not exist.

    As the XDG base directory specification and its peers say: $XDG_CACHE_HOME or
    ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.
    """
    if own := os.environ.get("GENKIT_CACHE"):
        return Path(own).absolute()
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local"), "genkit", "Cache")
    if sys.platform == "darwin":
        return Path(home, "Library", "Caches", "genkit")
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given if os.path.isabs(given) else os.path.join(home, ".cache"), "genkit")


def content_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, remembered from one process to the next.

    The memory is keyed by path, size, times and inode. What was changed in the last
    seconds is hashed but not remembered, as the next change might leave the same times.

    Raises:
        InputError: missing or unreadable.
    """
    with input_errors(path):
        real = os.path.realpath(path)
        state = _state(real)
    # a folder that another one replaces may hold the same path, so the key is not the path alone
    memo = folder() / "hashes" / _short(json.dumps([real, *state]))
    with suppress(OSError, ValueError):
        known = memo.read_text("ascii")
        if len(known) == 64 and not set(known) - set("0123456789abcdef"):
            return known
    digest = sha256(real)
    with suppress(OSError):
        if _state(real) == state and max(state[2:4]) < time.time_ns() - _SETTLED:
            memo.parent.mkdir(parents=True, exist_ok=True)
            temporary = memo.with_name(temporary_name())
            try:
                temporary.write_text(digest, "ascii")
                os.replace(temporary, memo)
            finally:
                temporary.unlink(missing_ok=True)
    return digest


def _state(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_dev


def _short(text: str) -> str:
    import hashlib

    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The file `name` in the cache; `make` writes it to the path it gets if it is not there.

    However many processes ask at once, one makes it and the others wait. It appears
    whole or not at all. Where the cache cannot take it, each process makes its own in
    a temporary folder, gone when the process ends.

    Raises:
        OutputError: not even a temporary file can be written.
    """
    path = folder() / name
    with suppress(OSError):
        if path.is_file():
            with suppress(OSError):
                os.utime(path)  # it is in use; see `_sweep`
            return path
    try:
        return _make(path, make)
    except (OSError, OutputError):
        return _make_for_now(path.name, make)


def _make(path: Path, make: Callable[[Path], None]) -> Path:
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if path.is_file():
            return path
        _sweep(path.parent)
        temporary = path.with_name(temporary_name())
        try:
            make(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


def _sweep(place: Path) -> None:
    """Remove what killed processes left, and what nobody has used for long."""
    for path in place.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - (_ABANDONED if path.match(TEMPORARY) else _UNUSED):
                path.unlink()


def _make_for_now(name: str, make: Callable[[Path], None]) -> Path:
    try:
        place = Path(tempfile.mkdtemp(prefix="genkit-"))
    except OSError as error:
        raise OutputError(f"no temporary folder can be made: {error}", "set TMPDIR to a folder with space") from error
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    try:
        make(place / name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {place / name}: {reason}", "set GENKIT_CACHE to a folder with space"
        ) from error
    return place / name

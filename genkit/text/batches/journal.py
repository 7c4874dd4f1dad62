"""The results of a batch on their way into a file, kept through a kill.

FILE.part    a header, then a result a line as it comes, each with the hash of its input line
FILE         the results alone, when all are there

Who holds FILE.part open holds its lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from genkit.errors import OutputError, RunBusyError, UsageError
from genkit.files import atomic_write, check_name, output_errors, sync_folder

_FORMAT = 1
_SYNC = 5.0  # seconds of work that a power cut may cost
_HASH = 16  # hexadecimal digits
_KEY = b', "input_hash": "'
_TAIL = len(_KEY) + _HASH + len(b'"}\n')


class Record(NamedTuple):
    """A result that is there: the hash of its input line, and whether that was refused."""

    hash: str
    refused: bool


def hash_line(data: bytes | None) -> str:
    return hashlib.blake2b(data or b"", digest_size=_HASH // 2).hexdigest()


class Journal:
    """The results for `path`; a context manager. See the top of this file.

    Call `begin`, take all of `records`, then `append` the rest and `finish`.

    Attributes:
        path: of the results; `part` is where they lie until then.
        header: what the part says about its job; None for a new one.

    Raises:
        RunBusyError: another process writes there.
        OutputError: it cannot be written, or, with `clobber=False`, is there already.
        UsageError: the part is no batch's.
    """

    def __init__(self, path: str, *, clobber: bool) -> None:
        self.path, self.part, self._clobber = path, path + ".part", clobber
        with output_errors(path):
            check_name(path)
        if not clobber and os.path.lexists(path):
            raise OutputError(f"{path} exists", "choose another name, or drop --no-clobber")
        with output_errors(self.part):
            self._file = self._open()
            try:
                self.header = self._read_header()
            except BaseException:
                self._file.close()
                raise
        self._synced = time.monotonic()

    def _open(self) -> BinaryIO:
        while True:
            file = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
            try:
                if not _lock(file):
                    raise RunBusyError(f"{self.path} is being written", "wait for it, or choose another --output")
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(self.part)):
                        return file
            except BaseException:
                file.close()
                raise
            file.close()  # whoever had it has just finished and removed it

    def _read_header(self) -> dict[str, Any] | None:
        line = self._file.readline()
        if not line.endswith(b"\n"):  # empty, or killed while it was written
            if line and not _header({}).startswith(line[:10]):
                raise self._foreign()
            return None
        try:
            header = json.loads(line)
        except ValueError:
            raise self._foreign() from None
        if not isinstance(header, dict) or header.pop("genkit_batch", None) != _FORMAT:
            raise self._foreign()
        return header

    def _foreign(self) -> UsageError:
        return UsageError(
            f"{self.part} is in the way: it is no unfinished batch", "remove it, or choose another --output"
        )

    def begin(self, header: Mapping[str, Any]) -> None:
        """Start the job of that header, or go on with it.

        Raises:
            UsageError: what is there is another job's; names what differs.
        """
        header = json.loads(json.dumps(header))
        if self.header is None:
            with output_errors(self.part):
                self._file.seek(0)
                self._file.truncate()
                self._file.write(_header(header))
                self._sync()
                sync_folder(Path(self.part).absolute().parent)
            self.header = dict(header)
        elif differences := list(_differences(self.header, header)):
            raise UsageError(
                f"{self.part} is of another job: {differences[0]}",
                "give the settings it began with, or remove it to begin anew",
            )

    def records(self) -> Iterator[Record]:
        """What is done; the end that a kill or a power cut left torn is cut off."""
        at = self._file.tell()
        while line := self._file.readline():
            record = _read_record(line)
            if record is None:
                break
            at = self._file.tell()
            yield record
        with output_errors(self.part):
            self._file.seek(at)
            self._file.truncate()

    def append(self, result: Mapping[str, Any], hash: str) -> None:
        """Add a result, which a kill of this process does not undo."""
        line = json.dumps(result, ensure_ascii=False).encode()
        with output_errors(self.part):
            self._file.write(line[:-1] + _KEY + hash.encode() + b'"}\n')
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC:
                self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def finish(self) -> None:
        """Put the results in their place, and remove the part."""
        self._file.seek(0)
        self._file.readline()
        with atomic_write(self.path, clobber=self._clobber) as file:
            for line in self._file:
                file.write(line[:-_TAIL] + b"}\n")
        with output_errors(self.part):
            self._remove()

    def _remove(self) -> None:
        if sys.platform == "win32":  # an open file cannot be removed there
            self._file.close()
        os.unlink(self.part)

    def close(self) -> None:
        """Give the lock back; what is there stays."""
        with contextlib.suppress(OSError, ValueError):
            if self.header is None and not self._file.closed:
                self._remove()
        with contextlib.suppress(OSError):  # a disk that is full; the error has been told
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _header(header: Mapping[str, Any]) -> bytes:
    return json.dumps({"genkit_batch": _FORMAT, **header}, ensure_ascii=False).encode() + b"\n"


def _read_record(line: bytes) -> Record | None:
    """None for a line that is not whole."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not line.endswith(b"\n") or line[-_TAIL : -_TAIL + len(_KEY)] != _KEY:
        return None
    return Record(value["input_hash"], "error" in value)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after)
        elif before != after:
            yield f"{name} was {json.dumps(before, ensure_ascii=False)} and is {json.dumps(after, ensure_ascii=False)}"


def _lock(file: BinaryIO) -> bool:
    """Hold `file` alone until it is closed; False where another process does."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # where no result lies: what is locked cannot be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True

"""Lines of a file, or of a pipe that may never end."""

from __future__ import annotations

import os
import queue
import stat
import sys
import threading
from collections import deque
from typing import NamedTuple, Self

from genkit.errors import InputError
from genkit.files import input_errors

LONGEST = 16 << 20  # bytes of a line; more than any context holds
_CHUNK = 1 << 16
_AHEAD = 16  # chunks that wait to be taken from a pipe


class Line(NamedTuple):
    """Line `number`, from 1, without its end; `data` is None where it is longer than `LONGEST`."""

    number: int
    data: bytes | None


class Lines:
    """The lines of `path`, `-` for standard input; blank ones count but are passed over.

    A pipe is read in the background, so that one can see whether a line is there.

    Attributes:
        size: bytes of a regular file, else None; up to `taken` the lines have been given out.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == "-" else path
        if path == "-" and sys.stdin is None:
            raise InputError("standard input is closed", "name a file with --input")
        with input_errors(self.name):
            self._file = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            found = os.fstat(self._file)
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        self.taken = 0
        self._number, self._offset, self._parts, self._length = 0, 0, list[bytes](), 0
        self._ready: deque[tuple[Line, int]] = deque()  # with where they end
        self._ended = False
        self._chunks: queue.Queue[bytes | OSError] | None = None
        if self.size is None and not stat.S_ISDIR(found.st_mode):
            self._chunks = queue.Queue(_AHEAD)
            # a daemon: nothing can wake it from a pipe on which nothing comes
            threading.Thread(target=self._pump, args=(self._chunks,), daemon=True).start()

    def close(self) -> None:
        if self._chunks is None:  # else the thread may be reading from it
            os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def wait(self) -> Line | None:
        """The next line, left in place; None at the end."""
        while not self._ready and not self._ended:
            self._read(block=True)
        return self._ready[0][0] if self._ready else None

    def next(self) -> Line | None:
        """Take the next line; None where it has not come yet, or at the end."""
        while not self._ready and not self._ended:
            if not self._read(block=False):
                return None
        if not self._ready:
            return None
        line, self.taken = self._ready.popleft()
        return line

    def _read(self, *, block: bool) -> bool:
        """Read a chunk; False where none has come."""
        with input_errors(self.name):
            if self._chunks is None:
                chunk: bytes | OSError = os.read(self._file, _CHUNK)
            else:
                try:
                    chunk = self._chunks.get(block)
                except queue.Empty:
                    return False
            if isinstance(chunk, OSError):
                raise chunk
        *ended, rest = chunk.split(b"\n") if chunk else (b"", b"")
        if chunk or self._parts:
            for piece in ended:
                self._add(piece)
                self._end()
            self._add(rest)
        self._ended = not chunk
        return True

    def _add(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length > LONGEST:
            self._parts.clear()
        elif piece:
            self._parts.append(piece)

    def _end(self) -> None:
        self._number += 1
        self._offset += self._length + 1
        data = b"".join(self._parts) if self._length <= LONGEST else None
        if self._number == 1 and data is not None:
            data = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        self._parts, self._length = [], 0
        if data is None or data.strip():
            self._ready.append((Line(self._number, data), self._offset))

    def _pump(self, chunks: queue.Queue[bytes | OSError]) -> None:
        chunk: bytes | OSError = b"?"
        while chunk and not isinstance(chunk, OSError):
            try:
                chunk = os.read(self._file, _CHUNK)
            except OSError as error:
                chunk = error
            chunks.put(chunk)

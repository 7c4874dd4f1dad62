"""Reading documents out of files as a stream.

Nothing is ever read whole: a document comes as pieces of bounded length, so
that a corpus of any size, also one endless line, takes a few megabytes.
"""

from __future__ import annotations

import itertools
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from genkit.errors import InputError
from genkit.library import RUN_MARK
from genkit.text.chat import ChatTemplate, Conversation, Span
from genkit.text.cutting import cut_point
from genkit.text.formats import OPENERS, READERS, Source, read_text

PIECE = 1 << 18  # characters


class Piece(NamedTuple):
    """A stretch of a document.

    Attributes:
        text: up to `PIECE` characters.
        first, last: whether the document begins, or ends, with it.
        position: bytes of all files read so far, as they lie on the disk.
        spans: of a conversation, the stretches of `text` that are answers; None
            for plain text, of which all counts.
    """

    text: str
    first: bool
    last: bool
    position: int
    spans: tuple[Span, ...] | None = None


def iter_documents(paths: Sequence[str | Path], *, text_field: str = "text", errors: str = "strict") -> Iterator[str]:
    """Whole documents, in the order of `paths` and, in a folder, of file names.

    Raises:
        InputError: as `list_files` and `iter_pieces`.
    """
    parts: list[str] = []
    for piece in iter_pieces(list_files(paths), text_field=text_field, errors=errors):
        parts.append(piece.text)
        if piece.last:
            yield "".join(parts)
            parts = []


def list_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files behind `paths`: a folder stands for all readable files in it, sorted.

    A path that is named twice is read twice. Hidden files are left out of folders.

    Raises:
        InputError: a path is missing, is no regular file or folder, or is a folder
            without any file of a known kind.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(_walk(path))
            if not found:
                raise InputError(f"{path} holds no text files", f"files that are read there: {' '.join(READERS)}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path} is not a regular file or folder" if path.exists() else f"{path} does not exist")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed: {error.strerror}") from error

    for root, folders, names in os.walk(folder, onerror=refuse):
        # what genkit wrote is no data: `--data . --out run` reads the run's parent
        folders[:] = [name for name in folders if not name.startswith(".") and not Path(root, name, RUN_MARK).exists()]
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and _kind(path)[0] in READERS and path.is_file():
                yield path


def iter_pieces(
    files: Iterable[Path], *, text_field: str = "text", errors: str = "strict", template: ChatTemplate | None = None
) -> Iterator[Piece]:
    """The documents of `files`, in pieces.

    Text files are split at lines that equal `<|endoftext|>`; line ends become
    `\\n`, and documents lose the empty lines around them. Blank documents are
    skipped.

    Args:
        text_field: the key or column that holds the text in JSON, CSV and Parquet.
        errors: "strict" refuses bytes that are not UTF-8; "replace" reads U+FFFD.
        template: what renders records that are conversations; None refuses them.

    Raises:
        InputError: a file that is binary, broken, not UTF-8, or holds a record
            without the field; the message names the file and the line.
    """
    position = 0
    for path in files:
        kind, compression = _kind(path)
        reader = READERS.get(kind, read_text)
        try:
            with open(path, "rb") as raw:
                stream = OPENERS[compression](raw) if compression else raw
                for text, first, last, spans in _pieces(reader(Source(path, stream, text_field, errors, template))):
                    yield Piece(text, first, last, position + raw.tell(), spans)
                position += raw.seek(0, os.SEEK_END)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path} cannot be read: {reason}", "check that the file is whole") from error


_Stretch = tuple[str, bool, bool, tuple[Span, ...] | None]


def _pieces(parts: Iterable[str | Conversation | None]) -> Iterator[_Stretch]:
    """Stretches of bounded length from parts of any length; None ends a document."""
    pending, ready, first = "", "", True  # ready: cut off, but perhaps the document's last
    for part in itertools.chain(parts, [None]):
        if isinstance(part, Conversation):
            yield from _stretches(part)
            continue
        if part is None:
            text = pending.rstrip("\n")
            if ready:
                yield ready, first, not text, None
                first = False
            if text and (ready or not text.isspace()):
                yield text, first, True, None
            pending, ready, first = "", "", True
            continue
        pending = pending + part if ready else (pending + part).lstrip("\n")
        start = 0
        while len(pending) - start > PIECE:
            end = cut_point(pending, start, PIECE)
            if ready:
                yield ready, first, False, None
                first = False
            ready, start = pending[start:end], end
        pending = pending[start:]


def _stretches(conversation: Conversation) -> Iterator[_Stretch]:
    text, start, end = conversation.text, 0, 0
    while end < len(text):
        end = cut_point(text, start, PIECE) if len(text) - start > PIECE else len(text)
        last = end == len(text)
        spans = ((max(a, start) - start, min(b, end + last) - start) for a, b in conversation.spans)
        yield text[start:end], start == 0, last, tuple((a, b) for a, b in spans if a < b)
        start = end


def _kind(path: Path) -> tuple[str, str]:
    """`(".jsonl", ".gz")` of `stories.jsonl.gz`; either may be empty."""
    *_, before, last = "", "", *(suffix.lower() for suffix in path.suffixes[-2:])
    return (before, last) if last in OPENERS else (last, "")

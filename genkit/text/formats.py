"""The file formats that hold text: one reader each, from bytes to documents.

A reader yields the text of its documents in parts, and None where one ends, or
whole conversations.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from genkit.errors import InputError
from genkit.text.chat import FIELDS, ChatTemplate, Conversation, is_conversation

Part = str | Conversation | None

SEPARATOR = "<|endoftext|>"  # alone on a line of a text file, it ends a document

_CHUNK = 1 << 18  # bytes
_MAX_RECORD = 64 << 20  # characters of one JSON value or one CSV line
_SEPARATOR_LINE = SEPARATOR + "\n"


@dataclass(frozen=True)
class Source:
    """An open file and how to read it.

    Attributes:
        path: for messages.
        stream: its bytes, decompressed.
        text_field: the key or column that holds the text.
        errors: "strict" or "replace" for what is not UTF-8.
        template: what renders a record that holds a conversation instead of the field.
    """

    path: Path
    stream: BinaryIO
    text_field: str
    errors: str
    template: ChatTemplate | None = None


class _Zstandard:
    """Decompresses frame after frame, and unlike `zstandard.stream_reader` notices a missing end."""

    def __init__(self, raw: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise InputError("reading .zst files needs the zstandard package", "pip install zstandard") from error
        self._raw = raw
        self._library = zstandard
        self._frame: Any = None
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next bytes, about `size` of them; none at the end."""
        while data := self._rest or self._raw.read(min(size, 4096)):  # one byte can become 32 KB
            frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                text: bytes = frame.decompress(data)
            except self._library.ZstdError as error:
                raise OSError(str(error)) from error
            self._frame, self._rest = (None, frame.unused_data) if frame.eof else (frame, b"")
            if text:
                return text
        if self._frame is not None:
            raise EOFError("the compressed data ends too early")
        return b""


OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw)),
    ".bz2": lambda raw: cast(BinaryIO, bz2.BZ2File(raw)),
    ".xz": lambda raw: cast(BinaryIO, lzma.LZMAFile(raw)),  # noqa: SIM115
    ".zst": lambda raw: cast(BinaryIO, _Zstandard(raw)),
}


def _decoded(source: Source) -> Iterator[str]:
    """The text of a file in chunks, with `\\n` for every line end and no byte order mark."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(source.errors), translate=True)
    line, data = 1, source.stream.read(_CHUNK)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{source.path} is UTF-16", f"convert it: iconv -f UTF-16 -t UTF-8 {source.path}")
    if b"\0" in data[:8192]:
        raise InputError(f"{source.path} is binary, not text", "give text files; unpack archives first")
    while True:
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise InputError(
                f"{source.path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8",
                "convert the file to UTF-8; train-text and eval also take --encoding-errors replace",
            ) from error
        line += text.count("\n")
        if text:
            yield text
        if not data:
            return
        data = source.stream.read(_CHUNK)


def lines(source: Source) -> Iterator[str]:
    """Lines with their `\\n`, each of bounded length."""
    rest: list[str] = []
    size, number = 0, 1
    for chunk in _decoded(source):
        *ended, open_line = chunk.split("\n")  # not splitlines, which also splits at U+2028 and others
        for line in ended:
            yield "".join((*rest, line, "\n"))
            rest, size, number = [], 0, number + 1
        rest.append(open_line)
        size += len(open_line)
        if size > _MAX_RECORD:
            raise InputError(
                f"{source.path}, line {number} is longer than {_MAX_RECORD} characters",
                "a record must fit into memory; split it, or give plain text as .txt",
            )
    if size:
        yield "".join(rest)


def read_text(source: Source) -> Iterator[Part]:
    """Plain text, split at lines that equal the separator."""
    held, at_line_start = "", True
    for chunk in _decoded(source):
        text = held + chunk
        tail = text.rfind("\n") + 1
        # the last line may be the beginning of a separator: see more of it first
        held = text[tail:] if SEPARATOR.startswith(text[tail:]) and (tail or at_line_start) else ""
        text = text[: len(text) - len(held)]
        start = place = 0
        while (place := text.find(_SEPARATOR_LINE, place)) >= 0:
            if text[place - 1] == "\n" if place else at_line_start:
                yield text[start:place]
                yield None
                start = place + len(_SEPARATOR_LINE)
            place += len(_SEPARATOR_LINE)
        yield text[start:]
        at_line_start = text.endswith("\n") if text else at_line_start
    if held != SEPARATOR:
        yield held


def _read_jsonl(source: Source) -> Iterator[Part]:
    for number, line in enumerate(lines(source), start=1):
        if not line.isspace():
            where = f"{source.path}, line {number}"
            yield from _document(_parse(line, where), where, source)


def _read_json(source: Source) -> Iterator[Part]:
    parts: list[str] = []
    size = 0
    for chunk in _decoded(source):
        parts.append(chunk)
        size += len(chunk)
        if size > _MAX_RECORD:
            raise InputError(
                f"{source.path} is longer than {_MAX_RECORD} characters, too long for one JSON value",
                "write it as .jsonl, one document a line",
            )
    value = _parse("".join(parts), str(source.path), "name the file .jsonl if it holds one value a line")
    for number, record in enumerate(value if isinstance(value, list) else [value], start=1):
        yield from _document(record, f"{source.path}, record {number}", source)


def _read_csv(source: Source, delimiter: str) -> Iterator[Part]:
    csv.field_size_limit(_MAX_RECORD)
    rows = csv.DictReader(lines(source), delimiter=delimiter)
    try:
        for row in rows:
            yield from _document(row, f"{source.path}, line {rows.line_num}", source)
    except csv.Error as error:
        raise InputError(f"{source.path}, line {rows.line_num} is not valid CSV: {error}") from error


def _read_parquet(source: Source) -> Iterator[Part]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("reading .parquet files needs the pyarrow package", "pip install pyarrow") from error
    with _seekable(source.stream) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            names = table.schema_arrow.names
            columns = [source.text_field]
            if source.text_field not in names:
                if source.template is None or not is_conversation(names):
                    raise _no_field(str(source.path), source.text_field, names)
                columns = [name for name in names if name in FIELDS]
            batches = table.iter_batches(batch_size=1024, columns=columns, use_threads=False)
            for number, record in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
                yield from _document(record, f"{source.path}, row {number}", source)
        except pyarrow.ArrowException as error:
            raise InputError(f"{source.path} is not valid Parquet: {error}") from error


@contextlib.contextmanager
def _seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream itself if it is a plain file, else an unpacked copy: decompressors only go forward."""
    if isinstance(stream, io.BufferedReader):
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, _CHUNK)
        yield copy


def _parse(text: str, where: str, hint: str | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}", hint) from error


def _document(record: Any, where: str, source: Source) -> Iterator[Part]:
    """The text of a record: the record itself if it is a string, else its field, or a conversation."""
    if isinstance(record, dict):
        if source.text_field not in record:
            if source.template is None or not is_conversation(record):
                raise _no_field(where, source.text_field, record)
            conversation = source.template.conversation(record, where)
            yield conversation._replace(text=_valid(conversation.text, where, source.errors))
            return
        record = record[source.text_field]
    if record is None:
        return
    if not isinstance(record, str):
        raise InputError(f"{where}: the text is {type(record).__name__}, not a string", "name another --text-field")
    yield _valid(record, where, source.errors)
    yield None


def _valid(text: str, where: str, errors: str) -> str:
    """The text as it is, or without what JSON can escape but UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise InputError(
                f"{where}: half a surrogate pair, \\u{ord(text[error.start]):04x}, is not a character",
                "use --encoding-errors replace",
            ) from error
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _no_field(where: str, field: str, names: Iterable[Any]) -> InputError:
    known = ", ".join(str(name) for name in itertools.islice(names, 12))
    return InputError(f"{where} has no field {field!r}", f"choose one with --text-field: {known}")


READERS: dict[str, Callable[[Source], Iterator[Part]]] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": functools.partial(_read_csv, delimiter=","),
    ".tsv": functools.partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
}

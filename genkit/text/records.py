"""Records of fields out of files: JSON lines, JSON lists, CSV and TSV with a header."""

from __future__ import annotations

import csv
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genkit.errors import InputError
from genkit.text.formats import OPENERS, Source, lines

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
_LONGEST = 64 << 20  # characters of a field


Naming = Callable[[Sequence[str]], Sequence[str] | None]


class Record(NamedTuple):
    """One record; `where` is its file and line, for messages."""

    fields: dict[str, Any]
    where: str


def read_records(path: str | Path, errors: str = "strict", naming: Naming = lambda first: None) -> Iterator[Record]:
    """The records of a file, one after the other; blank lines are passed over.

    In .tsv files quotes are letters like any other, as the field's data sets have it; .csv
    files quote as spreadsheets do. Either begins with a line of column names.

    Args:
        errors: "strict" refuses bytes that are not UTF-8; "replace" reads U+FFFD.
        naming: of the first line of a .tsv file, names for the columns if the line is a
            record itself, and None if it names them.

    Raises:
        InputError: no such file, of another kind, broken, or a line that is no record;
            the message names file and line.
    """
    path = Path(path)
    compression = path.suffix.lower() if path.suffix.lower() in OPENERS else ""
    kind = Path(path.stem).suffix.lower() if compression else path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: no such file", "check the path")
    if kind not in SUFFIXES:
        raise InputError(f"{path}: {kind or 'a name without suffix'} says nothing of fields", f"use {_SUFFIXES}")
    try:
        with open(path, "rb") as raw:
            stream = OPENERS[compression](raw) if compression else raw
            source = Source(path, stream, "", errors)
            yield from _table(source, kind, naming) if kind in (".csv", ".tsv") else _json(source, kind)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}", "check that the file is whole") from error


_SUFFIXES = ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]}"


def _json(source: Source, kind: str) -> Iterator[Record]:
    if kind == ".json":
        value = _parsed("".join(lines(source)), str(source.path))
        if not isinstance(value, list):
            raise InputError(f"{source.path} is not a list of records", "name it .jsonl if it holds one a line")
        for number, item in enumerate(value, start=1):
            yield _record(item, f"{source.path}, record {number}")
        return
    for number, line in enumerate(lines(source), start=1):
        if not line.isspace():
            where = f"{source.path}:{number}"
            yield _record(_parsed(line, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}", "mend or remove it") from error


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where} is not an object with fields", 'write names and values, such as {"text": "..."}')
    return Record(value, where)


def _table(source: Source, kind: str, naming: Naming) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST)
    tabs = kind == ".tsv"
    rows = csv.reader(
        lines(source), delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    try:
        header: Sequence[str] | None = next(rows, None)
        if header is None:
            return
        if tabs and (names := naming(header)) is not None:
            yield Record(dict(zip(names, header, strict=True)), f"{source.path}:1")
            header = names
        line = rows.line_num
        for row in rows:
            where = f"{source.path}:{line + 1}"
            line = rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{where} has {len(row)} columns, the header {len(header)} ({', '.join(header[:6])})",
                    "quote what holds a comma" if not tabs else "a tab parts two columns, one each",
                )
            yield Record(dict(zip(header, row, strict=True)), where)
    except csv.Error as error:
        raise InputError(f"{source.path}:{rows.line_num} is not valid CSV: {error}", "mend or remove it") from error

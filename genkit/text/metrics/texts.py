"""Candidates and references out of files: plain lines, or fields of records."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from genkit.errors import InputError
from genkit.text.formats import OPENERS, Source, lines
from genkit.text.records import SUFFIXES, Record, read_records

STDIN = "-"
CANDIDATE_FIELDS = ("candidate", "prediction", "output", "text")
REFERENCE_FIELDS = ("references", "reference", "target", "text")


class Item(NamedTuple):
    """A line of plain text, or a record; `where` is its file and line."""

    value: str | dict[str, Any]
    where: str


class Scored(NamedTuple):
    """Candidates and, for each, its references: one or more, or none where none were given."""

    candidates: list[str]
    references: list[list[str]]


def read_texts(
    candidates: str,
    references: Sequence[str] = (),
    *,
    candidate_field: str | None = None,
    reference_field: str | None = None,
    stdin: BinaryIO | None = None,
    paired: bool = True,
) -> Scored:
    """The texts to compare, line by line.

    Plain lines may be empty among candidates; an empty reference counts as none, and each
    candidate needs one. Without `references` they are fields of the candidates' records.

    Args:
        stdin: what `-` reads.
        paired: references are wanted.

    Raises:
        InputError: a file that cannot be read, no candidates, a line without partner, or a
            record without the field; the message names file and line.
    """
    items = _items(candidates, stdin)
    if not items:
        raise InputError(f"{_name(candidates)} holds no candidates", "give a text a line")
    texts = [_candidate(item, candidate_field) for item in items]
    if not paired:
        return Scored(texts, [[] for _ in texts])
    found: list[list[str]] = [[] for _ in items]
    if not references:
        for place, item in enumerate(items):
            if isinstance(item.value, str):
                raise InputError(
                    f"{item.where} is a candidate without a reference", "name their file with --references"
                )
            found[place] = _references(item, reference_field)
    files = [(name, _items(name, stdin)) for name in references]
    if reference_field is not None and files and all(isinstance(o.value, str) for _, others in files for o in others):
        raise _plain(_name(references[0]), "--reference-field")
    for name, others in files:
        if len(others) != len(items):
            longer, shorter, at = (
                (items, name, len(others)) if len(items) > len(others) else (others, candidates, len(items))
            )
            raise InputError(
                f"{longer[at].where} has no partner: {_name(shorter)} ends after line {at:,}",
                "candidates and references belong together line by line",
            )
        for mine, other in zip(found, others, strict=True):
            mine += _references(other, reference_field)
    for item, mine in zip(items, found, strict=True):
        if not mine:
            raise InputError(f"the candidate {item.where} has no reference: it is empty", "fill in or remove the line")
    return Scored(texts, found)


def _name(path: str) -> str:
    return "standard input" if path == STDIN else path


def _items(name: str, stdin: BinaryIO | None) -> list[Item]:
    path = Path(name)
    compression = path.suffix.lower() if path.suffix.lower() in OPENERS else ""
    if (Path(path.stem) if compression else path).suffix.lower() in SUFFIXES:
        return [Item(record.fields, record.where) for record in read_records(path)]
    try:
        if name == STDIN:
            if stdin is None:
                raise InputError("standard input is closed", "name a file")
            return _lines(Source(Path("standard input"), stdin, "", "strict"))
        if not path.exists():
            raise InputError(f"{path}: no such file", "check the path")
        with open(path, "rb") as raw:
            return _lines(Source(path, OPENERS[compression](raw) if compression else raw, "", "strict"))
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{_name(name)} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _lines(source: Source) -> list[Item]:
    """Plain lines; JSON lines where standard input begins with an object."""
    items = [Item(line.removesuffix("\n"), f"{source.path}:{n}") for n, line in enumerate(lines(source), start=1)]
    if str(source.path) != "standard input" or not items or not _is_object(items[0].value):
        return items
    return [_parsed(item) for item in items if str(item.value).strip()]


def _is_object(value: Any) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(item: Item) -> Item:
    if not _is_object(item.value):
        raise InputError(f"{item.where} is not a JSON object", "as the first line is, all have to be")
    return Item(json.loads(str(item.value)), item.where)


def _candidate(item: Item, field: str | None) -> str:
    if isinstance(item.value, str):
        if field is not None:
            raise _plain(item.where, "--candidate-field")
        return item.value
    record = Record(item.value, item.where)
    if field is None and isinstance(samples := record.fields.get("samples"), list):  # of genkit text
        if len(samples) != 1:
            raise InputError(f"{item.where} has {len(samples)} samples", "score one a line: leave out -n")
        record = Record(samples[0], item.where)
    elif field is None and isinstance(error := record.fields.get("error"), dict):
        raise InputError(f"{item.where} was refused: {error.get('message')}", "remove the line, and its reference")
    text = _field(record, field, CANDIDATE_FIELDS, "--candidate-field")
    if not isinstance(text, str):
        raise InputError(f"{item.where}: the candidate is {text!r:.60}, not text", "name another --candidate-field")
    return text


def _references(item: Item, field: str | None) -> list[str]:
    found: Any = item.value
    if not isinstance(found, str):
        found = _field(Record(item.value, item.where), field, REFERENCE_FIELDS, "--reference-field")  # type: ignore[arg-type]
    several = found if isinstance(found, list) else [found]
    for text in several:
        if not isinstance(text, str):
            raise InputError(f"{item.where}: a reference is {text!r:.60}, not text", "name another --reference-field")
    return [text for text in several if text.strip()]


def _plain(where: str, flag: str) -> InputError:
    return InputError(f"{where} is plain text without fields", f"leave {flag} out, or give .jsonl, .csv or .tsv")


def _field(record: Record, field: str | None, usual: Sequence[str], flag: str) -> Any:
    names = (field,) if field is not None else usual
    for name in names:
        if name in record.fields:
            return record.fields[name]
    there = ", ".join(str(name) for name in list(record.fields)[:12]) or "no fields"
    raise InputError(f"{record.where} has no field {' or '.join(names)}", f"choose one with {flag}: {there}")

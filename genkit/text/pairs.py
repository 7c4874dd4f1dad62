"""Pairs of texts, a source and its target: what sequence-to-sequence models learn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from genkit.errors import InputError
from genkit.text.documents import list_files
from genkit.text.formats import OPENERS
from genkit.text.records import SUFFIXES, Record, read_records

# the names that data sets give to the two sides, in the order in which they are looked for
NAMES = (
    ("source", "target"),
    ("src", "tgt"),
    ("instruction", "output"),
    ("input", "output"),
    ("prompt", "completion"),
)
_EXAMPLE = 'write {"source": "...", "target": "..."}, or choose fields with --source-field and --target-field'


class Pair(NamedTuple):
    """A text and what is to be made of it.

    Attributes:
        where: file and line, for messages.
    """

    source: str
    target: str
    where: str


def read_pairs(
    paths: Iterable[str | Path],
    *,
    source_field: str | None = None,
    target_field: str | None = None,
    errors: str = "strict",
) -> Iterator[Pair]:
    """The pairs of some files, in order; a folder stands for all files of records in it.

    Files are jsonl, json, csv or tsv, perhaps compressed. Two columns of a .tsv file need
    no header: the first is the source. Where an `instruction` has an `input`, the source
    is both, with an empty line between them.

    Args:
        source_field, target_field: the fields that hold the sides; by default the first
            of `NAMES` that a record has.
        errors: "strict" refuses bytes that are not UTF-8; "replace" reads U+FFFD.

    Raises:
        InputError: no such file, no pair in it, or a record without one of the sides;
            the message names file and line.
    """
    wanted = source_field, target_field

    def naming(first: Sequence[str]) -> Sequence[str] | None:
        return ("source", "target") if len(first) == 2 and wanted == (None, None) and not _named(first) else None

    for path in map(Path, paths):
        found = False
        for file in _files(path):
            for record in read_records(file, errors, naming):
                yield _pair(record, *wanted, errors)
                found = True
        if not found:
            raise InputError(f"{path} holds no pairs", _EXAMPLE)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in list_files([path]) if _kind(file) in SUFFIXES]
    if not files:
        raise InputError(f"{path} holds no files of pairs", f"files that are read there: {' '.join(SUFFIXES)}")
    return files


def _kind(file: Path) -> str:
    return (Path(file.stem) if file.suffix.lower() in OPENERS else file).suffix.lower()


def _named(fields: Iterable[str]) -> tuple[str, str] | None:
    """The first of `NAMES` that is there."""
    there = set(fields)
    return next((names for names in NAMES if there.issuperset(names)), None)


def _pair(record: Record, source_field: str | None, target_field: str | None, errors: str) -> Pair:
    for field, flag in ((source_field, "--source-field"), (target_field, "--target-field")):
        if field is not None and field not in record.fields:
            raise InputError(f"{record.where} has no field {field!r}", f"choose one with {flag}: {_names(record)}")
    known = _named(record.fields)
    source, target = source_field or (known and known[0]), target_field or (known and known[1])
    if source is None or target is None:
        raise InputError(f"{record.where} is no pair: it has {_names(record) or 'no fields'}", _EXAMPLE)
    text = _text(record, source, "--source-field", errors)
    if source_field is None and source == "instruction" and record.fields.get("input") not in (None, ""):
        text += "\n\n" + _text(record, "input", "--source-field", errors)
    return Pair(text, _text(record, target, "--target-field", errors), record.where)


def _names(record: Record) -> str:
    return ", ".join(str(name) for name in list(record.fields)[:12])


def _text(record: Record, field: str, flag: str, errors: str) -> str:
    text = record.fields[field]
    if not isinstance(text, str):
        raise InputError(f"{record.where}: {field} is {text!r:.60}, not text", f"name another {flag}")
    if not text.strip():
        raise InputError(f"{record.where}: {field} is empty", "a pair needs both sides; fill in or remove the line")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise InputError(
                f"{record.where}: {field} holds half a surrogate pair", "use --encoding-errors replace"
            ) from error
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

"""Many texts to ask a model about: lines of text, or of JSON with fields. Without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genkit.errors import InputError
from genkit.text.batches.lines import Line, Lines
from genkit.text.classify.labelled import text_of
from genkit.text.records import Record

AT_ONCE = 256  # texts read before the model is asked


@dataclass(frozen=True)
class Question:
    """A text, or a pair of them.

    Attributes:
        id: of its line, given back with the answer.
        where: file and line, for messages.
    """

    text: str
    pair: str | None = None
    id: Any = None
    where: str = "TEXT"


@dataclass(frozen=True)
class Refused:
    """A line that is no question, or has no answer."""

    id: Any
    error: InputError


def read_questions(
    lines: Lines, *, jsonl: bool, text_field: str, pair_field: str | None = None
) -> Iterator[list[Question | Refused]]:
    """The lines in order, as many together as are there already, up to `AT_ONCE`.

    Args:
        jsonl: the lines are JSON objects, or strings; else each is a text.
    """
    while lines.wait() is not None:
        read: list[Question | Refused] = []
        while len(read) < AT_ONCE and (line := lines.next()) is not None:
            read.append(_question(line, lines.name, jsonl, text_field, pair_field))
        yield read


def _question(line: Line, name: str, jsonl: bool, text_field: str, pair_field: str | None) -> Question | Refused:
    where, identity = f"{name}:{line.number}", None
    try:
        if line.data is None:
            raise InputError(f"{where} is too long", "split it")
        text = line.data.decode()
        if not jsonl:
            return Question(text.rstrip("\r"), where=where)
        value = json.loads(text)
        if isinstance(value, str):
            value = {text_field: value}
        if not isinstance(value, dict):
            raise InputError(f"{where} is no object with fields", f'write {{"{text_field}": ...}}')
        identity = value.get("id")
        record = Record(value, where)
        pair = None if pair_field is None else text_of(record, pair_field, "--pair-field")
        return Question(text_of(record, text_field, "--text-field"), pair, identity, where)
    except UnicodeDecodeError as error:
        return Refused(None, InputError(f"{where}: byte 0x{error.object[error.start]:02x} is not UTF-8", "use UTF-8"))
    except (ValueError, RecursionError) as error:
        return Refused(None, InputError(f"{where} is not valid JSON: {error}", "mend or remove it"))
    except InputError as error:
        return Refused(identity, error)

"""Labelled texts: reading them, naming their classes, holding some out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from genkit.errors import InputError
from genkit.text.records import Record, read_records

Classes = tuple[str, ...]
_NUMBER = re.compile(r"-?\d{1,18}")
_SHOWN = 8  # classes that a message names


class Example(NamedTuple):
    """A text, or a pair of them, and its class by name.

    Attributes:
        pair: the second text; None where texts are classified by themselves.
        where: file and line, for messages.
    """

    text: str
    pair: str | None
    label: str
    where: str


def read_examples(paths: Iterable[str], *, text_field: str, label_field: str, pair_field: str | None) -> list[Example]:
    """The labelled texts of some files, in order.

    Raises:
        InputError: no file, no examples, or a line without a text or a label; it names file and line.
    """
    found: list[Example] = []
    for path in paths:
        before = len(found)
        for record in read_records(path):
            found.append(
                Example(
                    text_of(record, text_field, "--text-field"),
                    None if pair_field is None else text_of(record, pair_field, "--pair-field"),
                    _label_of(record, label_field),
                    record.where,
                )
            )
        if len(found) == before:
            raise InputError(f"{path} holds no labelled text", 'write lines such as {"text": "...", "label": "..."}')
    return found


def text_of(record: Record, field: str, flag: str) -> str:
    """The text in a field of a record.

    Raises:
        InputError: no such field, or no text in it.
    """
    text = _value(record, field, flag)
    if not isinstance(text, str):
        raise InputError(f"{record.where}: {field} is {text!r:.60}, not text", f"name another {flag}")
    if not text.strip():
        raise InputError(f"{record.where}: {field} is empty", "give a text, or remove the line")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{record.where}: {field} holds half a surrogate pair", "mend or remove the line") from error
    return text


def _label_of(record: Record, field: str) -> str:
    label = _value(record, field, "--label-field")
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, int):
        return str(label)
    if label is None or (isinstance(label, str) and not label.strip()):
        raise InputError(f"{record.where}: {field} is empty", "give a label, or remove the line")
    if not isinstance(label, str):
        raise InputError(
            f"{record.where}: the label {label!r:.60} is neither text nor a whole number", "give one class a text"
        )
    return label.strip()


def _value(record: Record, field: str, flag: str) -> Any:
    if field not in record.fields:
        there = ", ".join(str(name) for name in list(record.fields)[:12])
        raise InputError(f"{record.where} has no field {field!r}", f"choose one with {flag}: {there}")
    return record.fields[field]


def classes_of(examples: Sequence[Example]) -> Classes:
    """The names of the classes: numbers in their order, others by the alphabet.

    Raises:
        InputError: there is one class only.
    """
    names = {example.label for example in examples}
    if len(names) == 1:
        raise InputError(
            f"all {len(examples):,} examples have the label {names.pop()!r}", "give examples of two classes or more"
        )
    if all(map(_NUMBER.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def check_known(examples: Iterable[Example], classes: Classes, source: str) -> None:
    """Raise InputError for a label that is no class of the model, naming where it stands."""
    known = set(classes)
    for example in examples:
        if example.label not in known:
            raise InputError(
                f"{example.where}: the label {example.label!r} is not a class of {source}",
                f"its classes are {listed(classes)}; mend the label, or train on examples of it too",
            )


def listed(names: Sequence[str]) -> str:
    """`'a', 'b' and 3 more`."""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples: of each class about `fraction`, one at least, on either side.

    Which text is held out goes by its hash and the seed alone; the same text twice stays on one side.

    Raises:
        InputError: a class has a single text, which cannot be on both sides.
    """
    if not fraction:
        return list(examples), []
    first: dict[tuple[str, str | None], Example] = {}
    for example in examples:
        first.setdefault((example.text, example.pair), example)
    held: set[tuple[str, str | None]] = set()
    by_class: dict[str, list[tuple[str, str | None]]] = {}
    for key, example in first.items():
        by_class.setdefault(example.label, []).append(key)
    for label, keys in by_class.items():
        if len(keys) == 1:
            raise InputError(
                f"{first[keys[0]].where}: the class {label!r} has this one text, so none of it can be held out",
                "give more of it, name --val-data, or use --val-fraction 0",
            )
        keys.sort(key=lambda key: _rank(seed, key))
        held.update(keys[: min(len(keys) - 1, max(1, round(fraction * len(keys))))])
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[(example.text, example.pair) in held].append(example)
    return sides


def _rank(seed: int, key: tuple[str, str | None]) -> bytes:
    return hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()


def contradictions(examples: Iterable[Example]) -> int:
    """How many texts carry two labels or more."""
    labels: dict[tuple[str, str | None], set[str]] = {}
    for example in examples:
        labels.setdefault((example.text, example.pair), set()).add(example.label)
    return sum(len(names) > 1 for names in labels.values())


def fingerprint(*parts: Iterable[Example]) -> str:
    """SHA-256 of the examples, where they stand left out."""
    digest = hashlib.sha256()
    for examples in parts:
        for example in examples:
            digest.update(repr(example[:3]).encode())
        digest.update(b"/")
    return digest.hexdigest()


def counts(examples: Iterable[Example], classes: Classes) -> dict[str, int]:
    """How many examples each class has."""
    found = Counter(example.label for example in examples)
    return {name: found[name] for name in classes}

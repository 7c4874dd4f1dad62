"""What `--data` names: files and folders, and how much each weighs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from genkit.errors import InputError, UsageError

MAX_WEIGHT = 1000


class DataSource(NamedTuple):
    """A file or folder that an epoch sees `weight` times."""

    path: str
    weight: float


def parse_source(text: str) -> DataSource:
    """`stories.txt:3`; a path that exists as it stands is taken as it is.

    Raises:
        InputError: neither is a file or folder.
        UsageError: the weight is out of range.
    """
    if text and Path(text).exists():
        return DataSource(text, 1.0)
    path, _, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        path, weight = "", 1.0
    if not path or not Path(path).exists():
        raise InputError(f"--data {text}: no such file or folder", "check the path")
    if not 0 < weight <= MAX_WEIGHT:
        raise UsageError(f"--data {text}: the weight {number} is out of range", f"use 0 < weight <= {MAX_WEIGHT}")
    return DataSource(path, weight)


def parse_sources(texts: Iterable[str]) -> list[DataSource]:
    """All of them, the heaviest first, so that a text that several hold is taken from there.

    A path that is named several times weighs as much as all of them together.

    Raises:
        InputError, UsageError: as `parse_source`.
    """
    weights: dict[Path, DataSource] = {}
    for path, weight in map(parse_source, texts):
        known = weights.get(key := Path(path).resolve(), DataSource(path, 0.0))
        weights[key] = DataSource(known.path, known.weight + weight)
    return sorted(weights.values(), key=lambda source: -source.weight)

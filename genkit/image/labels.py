"""Which class each picture is drawn from. Stdlib only."""

from __future__ import annotations

from collections.abc import Sequence

from genkit.config import suggest
from genkit.errors import UsageError


def label_of(name: str | int, classes: Sequence[str]) -> int:
    """The label of a class by its name, or else by its number from 0.

    Raises:
        UsageError: there are no classes, or none of this name or number.
    """
    if not classes:
        raise UsageError(f"class {name!r}: the model has no classes", "leave it out, or use a model trained on folders")
    if isinstance(name, str) and name in classes:
        return classes.index(name)
    try:
        label = int(name)
    except ValueError:
        label = -1
    if not 0 <= label < len(classes):
        known = f"{len(classes)} classes, {classes[0]} to {classes[-1]}"
        raise UsageError(f"the model has no class {name!r}", suggest(str(name), classes) or f"it has {known}")
    return label


def by_seed(seed: int, classes: Sequence[str]) -> int | None:
    """The label that goes with a seed if nobody names one: seeds in a row take the classes in turn."""
    return seed % len(classes) if classes else None


def shared_out(asked: Sequence[tuple[int, int | None]], n: int) -> list[int]:
    """The label of each of `n` pictures, class by class.

    Args:
        asked: labels and how many pictures each gets; None, for all of them: equal
            shares, the first ones one more.

    Raises:
        UsageError: the counts do not add up to `n`.
    """
    counts = [n // len(asked) + (i < n % len(asked)) if count is None else count for i, (_, count) in enumerate(asked)]
    if sum(counts) != n:
        raise UsageError(f"--class asks for {sum(counts)} images, and {n} are to be drawn", "let the numbers agree")
    return [label for (label, _), count in zip(asked, counts, strict=True) for _ in range(count)]

"""Lists on the command line: seeds, latents in files, classes. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import LARGEST_SEED
from genkit.errors import UsageError

_MOST = 1_000_000  # entries of a list


@dataclass(frozen=True)
class Rows:
    """Latents in a file: those from row `first` to row `last`, or to the end."""

    path: str
    first: int = 0
    last: int | None = None


def parse_seeds(text: str, flag: str = "--seeds") -> list[int]:
    """`0-3,40` -> [0, 1, 2, 3, 40].

    Args:
        flag: where the text comes from, for the errors.

    Raises:
        UsageError: not such a list, more than a million seeds, or one above `LARGEST_SEED`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        seeds += _seed_range(part, text, flag, _MOST - len(seeds))
    return seeds


def parse_stops(text: str, flag: str) -> list[int | Rows]:
    """`0-1,me.npz,b.npz:3` -> [0, 1, Rows("me.npz"), Rows("b.npz", 3, 3)].

    Raises:
        UsageError: as `parse_seeds`, or rows that are none.
    """
    stops: list[int | Rows] = []
    for part in map(str.strip, text.split(",")):
        before, _, after = part.rpartition(":")
        if part.lower().endswith(".npz"):
            stops.append(Rows(part))
        elif before.lower().endswith(".npz"):
            stops.append(_rows(before, after, flag))
        else:
            stops += _seed_range(part, text, flag, _MOST - len(stops), "seeds or .npz files", "write 0-15,40 or me.npz")
    return stops


def parse_classes(text: str) -> list[tuple[str, int | None]]:
    """`cat=8,dog=8` -> [("cat", 8), ("dog", 8)]; without numbers they are None.

    Raises:
        UsageError: no name, a number out of range, or some have a number and some have none.
    """
    found: list[tuple[str, int | None]] = []
    for part in map(str.strip, text.split(",")):
        name, _, number = part.rpartition("=")
        if name and number.isdecimal():
            found.append((name, int(number)))
        else:
            found.append((part, None))
    counts = [count for _, count in found]
    if not all(name for name, _ in found) or not all(count is None or 1 <= count <= _MOST for count in counts):
        raise UsageError(f"--class {text!r} is not a list of classes", "write cat=8,dog=8 or cat,dog")
    if None in counts and any(counts):
        raise UsageError(f"--class {text!r} has numbers for some classes only", "give every class one, or none")
    return found


def check_stops(count: int, frames: int, text: str) -> None:
    """Raise UsageError when a walk has too few stops or too many."""
    if count < 2:
        raise UsageError(f"--interpolate {text} is one image", "name two or more, e.g. 0,5,9")
    if count > frames:
        raise UsageError(f"--interpolate names {count} seeds for {frames} frames", "raise --frames")


def _seed_range(
    part: str, text: str, flag: str, limit: int, what: str = "seeds", remedy: str = "write 0-15,40"
) -> range:
    first, dash, last = part.strip().partition("-")
    try:
        low = int(first)
        high = int(last) if dash else low
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not a list of {what}", remedy) from None
    if high > LARGEST_SEED:
        raise UsageError(f"{flag} {text!r} has a seed above {LARGEST_SEED}", remedy)
    if high < low or high - low >= limit:
        raise UsageError(f"{flag} {text!r} is an empty or too long range", remedy)
    return range(low, high + 1)


def _rows(path: str, text: str, flag: str) -> Rows:
    first, dash, last = text.partition("-")
    try:
        low = int(first)
        high = int(last) if dash else low
    except ValueError:
        low, high = 1, 0
    if high < low:
        raise UsageError(f"{flag} {path}:{text} names no rows of the file", "write me.npz, me.npz:3 or me.npz:0-3")
    return Rows(path, low, high)

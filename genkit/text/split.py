"""Which text trains and which validates.

With 20 different documents or more, a document is held out when a hash of its
text says so: the same one in every run, wherever it lies. With fewer, the last
part of the text is held out. Either way a document that comes several times,
because a source is repeated to weigh more, is on one side only, and counts once
in validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from genkit.text.documents import Piece

MANY = 20  # different documents
_HASHES = 1 << 64


class Part(NamedTuple):
    """Text for one side; `last` when it ends its document, or what this side gets of it."""

    held_out: bool
    text: str
    last: bool


class Split:
    """Look at every piece with `survey`, then share them out with `divide`, in the same order.

    Args:
        fraction: share of the text to hold out.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._lengths: dict[int, int] = {}  # of the first `MANY` different documents, in characters
        self._measured = False  # whether this document is the first of its kind
        self._lowest, self._highest = _HASHES, -1
        # few documents: where each starts when they are laid end to end, and where validation does
        self._starts: dict[int, int] = {}
        self._boundary: int | None = None
        self._place = 0
        # many documents
        self._held_out = False
        # both: the documents that validation has, and whether this one is new to it
        self._seen: set[int] = set()
        self._fresh = False

    def survey(self, piece: Piece) -> None:
        """Take note of a piece."""
        if piece.first:
            key = _hash(piece.text)
            self._lowest, self._highest = min(self._lowest, key), max(self._highest, key)
            self._measured = len(self._lengths) < MANY and key not in self._lengths
            if self._measured:
                self._lengths[key] = 0
            self._key = key
        if self._measured:
            self._lengths[self._key] += len(piece.text)

    def divide(self, piece: Piece) -> Iterator[Part]:
        """The piece's parts, without those that validation has already."""
        if piece.first:
            self._open(_hash(piece.text))
        if self._boundary is None:
            if not self._held_out or self._fresh:
                yield Part(self._held_out, piece.text, piece.last)
            return
        inside = max(0, self._boundary - self._place)  # characters of the piece that train
        self._place += len(piece.text)
        if inside:
            yield Part(False, piece.text[:inside], piece.last or self._place >= self._boundary)
        if inside < len(piece.text) and self._fresh:
            yield Part(True, piece.text[inside:], piece.last)

    def _open(self, key: int) -> None:
        if not self._fraction:
            return
        if not self._starts and len(self._lengths) < MANY:
            self._lay_end_to_end()
        if self._boundary is not None:
            self._place = self._starts.get(key, self._boundary)  # an unknown text came after the survey
        else:
            # the extremes see to it that neither side is empty
            chosen = key < self._fraction * _HASHES or key == self._lowest
            self._held_out = chosen and key != self._highest
        self._fresh = key not in self._seen
        if self._boundary is not None or self._held_out:
            self._seen.add(key)

    def _lay_end_to_end(self) -> None:
        total = 0
        for key, length in self._lengths.items():
            self._starts[key] = total
            total += length
        self._boundary = max(1, int(total * (1 - self._fraction)))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())

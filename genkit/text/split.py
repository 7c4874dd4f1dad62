"""Which text trains and which validates.

With 20 different documents or more, a document is held out when a hash of its
text says so: the same one in every run, wherever it lies. With fewer, the last
part of the text is held out. Either way a document that comes several times is
on one side only, and counts once in validation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, Self

from genkit.text.chat import Span
from genkit.text.documents import Piece

MANY = 20  # different documents
_HASHES = 1 << 64


class Part(NamedTuple):
    """Text for one side.

    Attributes:
        held_out: whether it validates.
        text: never empty.
        last: whether it ends its document, or what this side gets of it.
        spans: as in `Piece`.
    """

    held_out: bool
    text: str
    last: bool
    spans: tuple[Span, ...] | None = None


class Split:
    """Look at every piece with `survey`, then share them out with `divide`, in the same order.

    Args:
        fraction: share of the text to hold out.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._lengths: dict[int, int] = {}  # of the first `MANY` different documents, in characters
        self._measured = -1  # the key of this document, when it is the first of its kind
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

    def copy(self) -> Self:
        """What was surveyed so far, to go back to."""
        other = copy.copy(self)
        other._lengths = dict(self._lengths)
        return other

    def survey(self, piece: Piece, key: int) -> None:
        """Take note of a piece.

        Args:
            key: 64-bit hash of the first piece of its document.
        """
        if piece.first:
            self._lowest, self._highest = min(self._lowest, key), max(self._highest, key)
            self._measured = key if len(self._lengths) < MANY and key not in self._lengths else -1
            if self._measured >= 0:
                self._lengths[key] = 0
        if self._measured >= 0:
            self._lengths[self._measured] += len(piece.text)

    def divide(self, piece: Piece, key: int) -> Iterator[Part]:
        """The piece's parts, without those that validation has already."""
        if piece.first:
            self._open(key, whole=piece.spans is not None)
        if self._boundary is None or piece.spans is not None:
            if not self._held_out or self._fresh:
                yield Part(self._held_out, piece.text, piece.last, piece.spans)
            return
        inside = max(0, self._boundary - self._place)  # characters of the piece that train
        self._place += len(piece.text)
        if inside:
            yield Part(False, piece.text[:inside], piece.last or self._place >= self._boundary)
        if inside < len(piece.text) and self._fresh:
            yield Part(True, piece.text[inside:], piece.last)

    def _open(self, key: int, whole: bool) -> None:
        """Decide about a document; a `whole` one is not cut in two."""
        if not self._fraction:
            return
        if not self._starts and len(self._lengths) < MANY:
            self._lay_end_to_end()
        if self._boundary is not None:
            self._place = self._starts.get(key, self._boundary)  # an unknown text came after the survey
            self._held_out = whole and self._place >= self._boundary
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

"""Which documents are the same as another one, in 8 bytes each.

A document comes in pieces, so that the first reading notes what it is, and the
second one, knowing all, leaves repeats out.
"""

from __future__ import annotations

import hashlib
from array import array

import numpy as np

from genkit.text.documents import Piece

_AT_ONCE = 1 << 20


class Register:
    """64-bit hashes of documents, numbered in the order of reading."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._begun: dict[int, int] = {}  # number -> hash of the first piece, where there are several
        self._digest = hashlib.blake2b(digest_size=8)

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, piece: Piece) -> int:
        """Take note of the next piece; returns the hash of the document as far as it was seen."""
        data = piece.text.encode()
        if piece.first:
            self._digest = hashlib.blake2b(data, digest_size=8)
        else:
            self._digest.update(data)
        key = int.from_bytes(self._digest.digest())
        if piece.last:
            self._hashes.append(key)
        elif piece.first:
            self._begun[len(self._hashes)] = key
        return key

    def key(self, number: int) -> int:
        """The hash of a document's first piece."""
        return self._begun.get(number, self._hashes[number])

    def forget(self, number: int) -> None:
        """Keep the first `number` documents only."""
        del self._hashes[number:]
        self._begun = {known: key for known, key in self._begun.items() if known < number}

    def repeats(self, elsewhere: Register | None = None) -> np.ndarray:
        """(n,) whether a document came before, or is one of those `elsewhere`."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        repeated = np.zeros(len(hashes), dtype=bool)
        if elsewhere:
            repeated = _among(hashes, np.sort(np.frombuffer(elsewhere._hashes, dtype=np.uint64)))
        ordered = np.sort(hashes)
        several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        which = np.flatnonzero(_among(hashes, several))
        _, first = np.unique(hashes[which], return_index=True)
        repeated[np.delete(which, first)] = True
        return repeated


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """(n,) whether each value is one of `ordered`, in little memory."""
    found = np.zeros(len(values), dtype=bool)
    if len(ordered):
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            places = np.minimum(np.searchsorted(ordered, some), len(ordered) - 1)
            found[start : start + _AT_ONCE] = ordered[places] == some
    return found

"""The token ids of words seen before, looked up by the hundred thousand.

A hash table with open addressing in NumPy arrays. Its keys are the words
themselves, as whole 64-bit numbers, so that a hit is never another word's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LONGEST = 32  # bytes of a word that is kept
_LANES = LONGEST // 8
_PROBES = 8
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)  # the first n bytes of a number
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64)


class Packed(NamedTuple):
    """Words as numbers.

    Attributes:
        lengths: (W,) bytes of each word.
        lanes: (4, W) uint64, the first 32 bytes of each, zeros behind its end.
        hashes: (W,) uint64.
    """

    lengths: np.ndarray
    lanes: np.ndarray
    hashes: np.ndarray

    def some(self, which: np.ndarray) -> Packed:
        """Some of the words."""
        return Packed(self.lengths[which], self.lanes[:, which], self.hashes[which])


def pack(data: bytes, starts: np.ndarray, stops: np.ndarray) -> Packed:
    """The words `data[start:stop]`, none of them empty."""
    padded = data + bytes(LONGEST)
    numbers: np.ndarray = np.ndarray((len(data) + 1,), dtype="<u8", buffer=padded, strides=(1,))
    lengths = stops - starts
    lanes = np.zeros((_LANES, len(starts)), dtype=np.uint64)
    lanes[0] = numbers[starts] & _MASKS[np.minimum(lengths, 8)]
    hashes = lanes[0] * _FACTORS[0]
    longer = np.arange(len(starts))
    for lane in range(1, _LANES):
        longer = longer[lengths[longer] > 8 * lane]
        left = lengths[longer] - 8 * lane
        lanes[lane, longer] = numbers[starts[longer] + 8 * lane] & _MASKS[np.minimum(left, 8)]
        hashes[longer] ^= lanes[lane, longer] * _FACTORS[lane]
    return Packed(lengths, lanes, hashes)


class WordTable:
    """Words of up to `LONGEST` bytes and their token ids.

    Args:
        dtype: of the ids.
        bits: there are 2**bits places for words.
        tokens: ids to keep at most, of all words together.
    """

    def __init__(self, dtype: np.dtype, *, bits: int = 20, tokens: int = 1 << 22) -> None:
        self._bits = bits
        self._lengths = np.zeros(1 << bits, dtype=np.uint8)  # of the word in bytes; 0 is a free place
        self._lanes = [np.zeros(1 << bits, dtype=np.uint64) for _ in range(_LANES)]
        self._starts = np.zeros(1 << bits, dtype=np.int32)  # of its ids in `_ids`
        self._counts = np.zeros(1 << bits, dtype=np.int32)
        self._ids = np.zeros(tokens, dtype=dtype)
        self._used = self._words = 0

    @property
    def ids(self) -> np.ndarray:
        """The ids of all words, to which `spans` refers."""
        return self._ids[: self._used]

    def find(self, words: Packed) -> np.ndarray:
        """(W,) the place of each word, -1 where it is not known."""
        found = np.full(len(words.lengths), -1, dtype=np.int64)
        todo, places = np.arange(len(found)), self._first_places(words)
        for _ in range(_PROBES):
            stored, lengths = self._lengths[places], words.lengths[todo]
            same = (stored == lengths) & (self._lanes[0][places] == words.lanes[0, todo])
            for lane in range(1, _LANES):
                longer = np.flatnonzero(same & (lengths > 8 * lane))
                same[longer] = self._lanes[lane][places[longer]] == words.lanes[lane, todo[longer]]
            found[todo[same]] = places[same]
            on = np.flatnonzero(~same & (stored != 0))
            if not len(on):
                break
            todo, places = todo[on], self._next(places[on])
        return found

    def spans(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in `ids` those of the words at `places` start, and how many they are."""
        return self._starts[places], self._counts[places]

    def add(self, words: Packed, ids: np.ndarray, counts: np.ndarray) -> None:
        """Keep different words that are not known yet, as long as there is room.

        Args:
            ids: of all words, end to end.
            counts: (W,) how many each has.
        """
        if 2 * (self._words + len(counts)) > len(self._lengths) or self._used + len(ids) > len(self._ids):
            self._lengths[:] = 0
            self._used = self._words = 0
        if self._used + len(ids) > len(self._ids):
            return
        starts = self._used + np.cumsum(counts) - counts
        self._ids[self._used : self._used + len(ids)] = ids
        self._used += len(ids)
        todo = np.flatnonzero(words.lengths <= LONGEST)
        places = self._first_places(words)[todo]
        for _ in range(_PROBES):
            # of those that want the same place, the first one gets it
            wanted, first = np.unique(places, return_index=True)
            first = first[self._lengths[wanted] == 0]
            at, which = places[first], todo[first]
            self._lengths[at] = words.lengths[which]
            for lane in range(_LANES):
                self._lanes[lane][at] = words.lanes[lane, which]
            self._starts[at], self._counts[at] = starts[which], counts[which]
            self._words += len(at)
            todo, places = np.delete(todo, first), self._next(np.delete(places, first))

    def _first_places(self, words: Packed) -> np.ndarray:
        return (words.hashes >> np.uint64(64 - self._bits)).astype(np.int64)

    def _next(self, places: np.ndarray) -> np.ndarray:
        return (places + 1) & (len(self._lengths) - 1)

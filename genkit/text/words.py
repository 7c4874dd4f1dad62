"""Cutting many texts at once at the places of `cutting`, vectorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SPACE, _LINE_END, _LETTER, _MARK = 1, 2, 4, 8


def _classes() -> np.ndarray:
    """Character classes by code point; all white space lies at or below U+3000."""
    table = np.zeros(0x3002, dtype=np.uint8)
    for code in range(0x3001):
        char = chr(code)
        if char.isspace() and not 0x1C <= code <= 0x1F:  # those are white space to Python alone
            table[code] |= _SPACE
        if char in "\r\n":
            table[code] |= _LINE_END
        if code < 128 and char.isalpha():
            table[code] |= _LETTER
        if 32 < code < 127 and not char.isalnum():
            table[code] |= _MARK
    return table


_CLASSES = _classes()


def word_bytes(texts: Sequence[str]) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Cut texts into pieces that can be tokenized on their own.

    Returns:
        the UTF-8 bytes of all texts; (W,) where in them each piece ends, none of them
        empty; and for each text the number of pieces up to its end.
    """
    joined = "".join(texts)
    data = joined.encode()
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    if not joined:
        return data, np.empty(0, dtype=np.int64), ends
    if len(data) == len(joined):  # ASCII
        kinds = _CLASSES[np.frombuffer(data, dtype=np.uint8)]
    else:
        codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
        kinds = _CLASSES[np.minimum(codes, len(_CLASSES) - 1)]
    stops = _stops(kinds, ends)
    counts = np.searchsorted(stops, ends, side="right")
    if len(data) != len(joined):
        widths = np.add(codes >= 0x80, codes >= 0x800, dtype=np.uint8) + (codes >= 0x10000) + np.uint8(1)
        stops = np.cumsum(widths, dtype=np.int64)[stops - 1]
    return data, stops, counts


def words(text: str) -> list[str]:
    """The pieces of one text."""
    data, stops, _ = word_bytes([text])
    places = stops.tolist()
    return [data[a:b].decode() for a, b in zip([0, *places], places, strict=False)]


def _stops(kinds: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where pieces end, by the classes of all characters."""
    left, right = kinds[:-1], kinds[1:]
    cut = np.zeros(len(kinds) + 1, dtype=bool)
    cut[1:-1] = (
        ((left & _SPACE == 0) & (right & (_SPACE | _LINE_END) == _SPACE))
        | ((left & _LINE_END != 0) & (right & _SPACE == 0))
        | ((left & _LETTER != 0) & (right & _MARK != 0))
    )
    cut[ends] = True
    cut[0] = False
    return np.flatnonzero(cut)

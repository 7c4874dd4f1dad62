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


def words(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Cut texts into pieces that can be tokenized on their own.

    Returns:
        the pieces of all texts in order, and for each text the number of pieces
        up to its end.
    """
    joined = "".join(texts)
    ends = np.cumsum([len(text) for text in texts])
    if not joined:
        return [], [0] * len(texts)
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    kinds = _CLASSES[np.minimum(codes, len(_CLASSES) - 1)]
    left, right = kinds[:-1], kinds[1:]
    cut = np.zeros(len(joined) + 1, dtype=bool)
    cut[1:-1] = (
        ((left & _SPACE == 0) & (right & (_SPACE | _LINE_END) == _SPACE))
        | ((left & _LINE_END != 0) & (right & _SPACE == 0))
        | ((left & _LETTER != 0) & (right & _MARK != 0))
    )
    cut[ends] = True
    cut[0] = False
    places = np.flatnonzero(cut)
    counts = np.searchsorted(places, ends, side="right").tolist()
    stops = places.tolist()
    return [joined[a:b] for a, b in zip([0, *stops], stops, strict=False)], counts

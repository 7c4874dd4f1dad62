"""Where a text may be cut without changing its tokens.

Byte-level BPE first splits a text into words with a regular expression and
never merges across words. With Qwen2's expression below, two kinds of places
are always between words, whatever stands around them:

    before white space that is no line end, after anything but white space
        (no alternative runs from the one into the other)
    after a line end, before anything but white space
        (each alternative that takes a line end stops after the last one)

and a third for plain English: between a letter and the punctuation after it.
So gigabytes can be tokenized word by word, and long documents in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Digits one by one; a space belongs to the word after it. llama.cpp knows this one
# by the name "qwen2", so that a tokenizer survives the conversion to GGUF.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

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


def cut_point(text: str, start: int, limit: int) -> int:
    """Where to end a piece of at most `limit` characters from `start`.

    After a line end if one lies in the second half, else before a space, else
    at the limit. Looks at `text[start : start + limit + 1]` only, which must
    exist, so that the same text is always cut alike.
    """
    half, stop = start + limit // 2, start + limit
    place = text.rfind("\n", half, stop)
    while place >= 0 and text[place + 1].isspace():
        place = text.rfind("\n", half, place)
    if place >= 0:
        return place + 1
    place = text.rfind(" ", half, stop)
    while place >= 0 and text[place - 1].isspace():
        place = text.rfind(" ", half, place)
    return place if place > half else stop

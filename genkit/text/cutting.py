"""Where a text may be cut without changing its tokens.

Byte-level BPE first splits a text into words with a regular expression and
never merges across words. With Qwen2's expression below, two kinds of places
are always between words, whatever stands around them:

    before white space that is no line end, after anything but white space
        (no alternative runs from the one into the other)
    after a line end, before anything but white space
        (each alternative that takes a line end stops after the last one)

and a third for plain English: between a letter and the punctuation after it.
So gigabytes can be tokenized word by word (`words`), and long documents in pieces.
"""

from __future__ import annotations

# Digits one by one; a space belongs to the word after it. llama.cpp knows this one
# by the name "qwen2", so that a tokenizer survives the conversion to GGUF.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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

"""Text as a filter compares it, so that no other spelling of the same letters slips through."""

from __future__ import annotations

import unicodedata

_TAIL = 1_000  # characters of a prompt that a match may begin in


def plain(text: str) -> str:
    """Full-width, bold and ligature letters become usual ones (NFKC); invisible ones go."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")


def folded(text: str) -> str:
    """`plain`, without capitals, and each white space a single blank."""
    text = unicodedata.normalize("NFKC", plain(text).casefold())
    return "".join(" " if c.isspace() else c for c, before in zip(text, "x" + text, strict=False)
                   if not (c.isspace() and before.isspace()))  # fmt: skip


def is_letter(char: str) -> bool:
    """Whether it is a part of a word: a letter, a digit, a low line, or a mark on a letter."""
    return char.isalnum() or char == "_" or unicodedata.category(char).startswith("M")


def joined(prompt: str, text: str, *, fold: bool) -> tuple[str, int]:
    """The end of the prompt and the text, made comparable, and where in it the text begins."""
    make = folded if fold else plain
    tail = prompt[-_TAIL:]
    before, whole = make(tail), make(tail + text)
    same = zip(before, whole, strict=False)  # letters at the seam may become one
    return whole, next((place for place, (a, b) in enumerate(same) if a != b), min(len(before), len(whole)))

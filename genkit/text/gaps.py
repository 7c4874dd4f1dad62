"""Gaps in texts and what fills them. Without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from genkit.errors import InputError

MASK = "[MASK]"
_MARKS = re.compile(r"\[MASK\]|<mask>")  # of BERT and of RoBERTa; either stands for any model's own


@dataclass(frozen=True)
class Candidate:
    """A token that may stand in a gap.

    Attributes:
        token: its id; `text` is what it reads as by itself.
        probability: that the model gives it, of all its tokens.
        filled: the whole text with it in the gap; other gaps stay.
    """

    token: int
    text: str
    probability: float
    filled: str


def parts(text: str) -> list[str]:
    """The text around its gaps: one part more than gaps.

    Raises:
        InputError: there is no gap.
    """
    found = _MARKS.split(text)
    if len(found) == 1:
        raise InputError(f"there is no gap in {text!r:.60}", f"write {MASK} where a word is missing")
    return found


def marked(text: str, mask: str) -> str:
    """The text with a model's own `mask` in its gaps, if there are any."""
    return mask.join(_MARKS.split(text))


def before_gap(text: str) -> str:
    """What a causal model sees of a text whose gap is its end, without the blank before the gap.

    Raises:
        InputError: no gap, several, or text behind it.
    """
    found = parts(text)
    if len(found) > 2:
        raise InputError(
            f"{len(found) - 1} gaps in {text!r:.60}, and a causal model fills one, at the end",
            "give one gap, or use a masked model: -m hf:google-bert/bert-base-uncased",
        )
    before, behind = found
    if behind.strip():
        raise InputError(
            f"{behind.strip()!r:.40} stands behind the gap, and a causal model sees only what is before it",
            "end the text with the gap, or use a masked model: -m hf:google-bert/bert-base-uncased",
        )
    return before.rstrip()

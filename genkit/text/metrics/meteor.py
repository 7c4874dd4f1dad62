"""METEOR of its first two stages: words that are equal, and words of one stem.

Lavie and Agarwal 2007, "METEOR: An Automatic Metric for MT Evaluation with High Levels of
Correlation with Human Judgments". The third stage, synonyms out of WordNet, is left out: it
needs data that is downloaded by itself, and English alone has it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5  # weight of recall; shape and weight of the penalty

_WORDS = re.compile(r"\w+|[^\w\s]")

Stem = Callable[[str], str]


def words(text: str) -> list[str]:
    """Words and single signs of punctuation."""
    return _WORDS.findall(text)


def meteor(candidate: Sequence[str], references: Sequence[Sequence[str]], stem: Stem) -> float:
    """The best score, 0 to 1, of `candidate` against one of `references`, all cut into words."""
    return max((_against(candidate, reference, stem) for reference in references), default=0.0)


def _against(candidate: Sequence[str], reference: Sequence[str], stem: Stem) -> float:
    pairs = align(candidate, reference, stem)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(candidate), len(pairs) / len(reference)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    chunks = 1 + sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in pairwise(pairs))
    penalty: float = GAMMA * (chunks / len(pairs)) ** BETA
    return mean * (1 - penalty)


def align(candidate: Sequence[str], reference: Sequence[str], stem: Stem) -> list[tuple[int, int]]:
    """Places of words that match, in the candidate and the reference, each used once.

    Equal words come first, capitals aside, then those of one stem; from the end, each word of
    the candidate takes the last place that is free, as NLTK does.
    """
    sides = [[(i, word.lower()) for i, word in enumerate(side)] for side in (candidate, reference)]
    pairs = _matched(*sides)
    taken = [{pair[side] for pair in pairs} for side in (0, 1)]
    rest = [[(i, stem(word)) for i, word in sides[side] if i not in taken[side]] for side in (0, 1)]
    return sorted(pairs + _matched(*rest))


def _matched(mine: Sequence[tuple[int, str]], others: Sequence[tuple[int, str]]) -> list[tuple[int, int]]:
    free: dict[str, list[int]] = defaultdict(list)
    for place, word in others:
        free[word].append(place)
    return [(place, free[word].pop()) for place, word in reversed(mine) if free.get(word)]

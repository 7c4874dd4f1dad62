"""How much texts differ among themselves: distinct-n and self-BLEU."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ORDER = 4  # of BLEU's n-grams


class Overlap(NamedTuple):
    """What BLEU is computed from.

    Attributes:
        correct, total: n-grams that match and n-grams there are, for n from 1 to `ORDER`.
        length, reference: words of the text, and of the text nearest to it in length.
    """

    correct: list[int]
    total: list[int]
    length: int
    reference: int


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams as a share of all, over all texts (Li et al. 2016); 0 where there is none."""
    found = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(found)) / len(found) if found else 0.0


def overlaps(texts: Sequence[Sequence[str]]) -> Iterator[Overlap]:
    """The overlap of each text with all the others as its references (Zhu et al. 2018).

    An n-gram counts as often as the one other text has it that has it most. For that the two
    highest counts of each n-gram are enough, so this takes time in proportion to the texts,
    where comparing each with each would take its square.
    """
    counts = [Counter(_ngrams(words)) for words in texts]
    highest: dict[tuple[str, ...], tuple[int, int, int]] = {}  # the count, whose, and the next one
    for place, counted in enumerate(counts):
        for ngram, count in counted.items():
            first, whose, second = highest.get(ngram, (0, -1, 0))
            if count > first:
                highest[ngram] = (count, place, first)
            elif count > second:
                highest[ngram] = (first, whose, count)
    lengths = sorted(map(len, texts))
    for place, counted in enumerate(counts):
        correct, total = [0] * ORDER, [0] * ORDER
        for ngram, count in counted.items():
            first, whose, second = highest[ngram]
            total[len(ngram) - 1] += count
            correct[len(ngram) - 1] += min(count, second if whose == place else first)
        own = len(texts[place])
        yield Overlap(correct, total, own, _nearest(lengths, own))


def _ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for n in range(1, ORDER + 1):
        for i in range(len(words) - n + 1):
            yield tuple(words[i : i + n])


def _nearest(lengths: Sequence[int], own: int) -> int:
    """The length nearest to `own` among the others, the shorter of two as near."""
    at = bisect_left(lengths, own)  # lengths[at] is its own
    near = [*lengths[max(at - 1, 0) : at], *lengths[at + 1 : at + 2]]
    return min(near, key=lambda length: (abs(length - own), length))

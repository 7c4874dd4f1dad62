"""No token may complete a bad word, whatever tokens spell it."""

from __future__ import annotations

import itertools
import random

import pytest

from genkit.text.constraints.badwords import BadWords

PIECES = [None, b"a", b"b", b"c", b"ab", b"bc", b"abc", b"ba", b"cab", b" a", b"xaby", b"c\xc3", b"\xa9", b"\xc3\xa9"]


def by_definition(words: list[str], tokens: list[int]) -> set[int]:
    """Tokens after which some word occurs that ends in the new token."""
    before = b"".join(PIECES[token] or b"" for token in tokens)
    return {
        token
        for token, piece in enumerate(piece or b"" for piece in PIECES)
        for word in (word.encode() for word in words)
        for start in range(len(before + piece))
        if (before + piece).startswith(word, start) and start + len(word) > len(before)
    }


@pytest.mark.parametrize(
    "words", [["ab"], ["abc"], ["a"], ["abcab", "ca"], ["aa", "aab"], ["c\u00e9"], ["xab", " ab"], ["zzz"]]
)
def test_every_text_of_three_tokens(words: list[str]) -> None:
    rule = BadWords(words, PIECES)
    for tokens in itertools.chain.from_iterable(itertools.product(range(len(PIECES)), repeat=n) for n in range(3)):
        assert rule.forbidden(tokens) == by_definition(words, list(tokens)), tokens


def test_long_texts() -> None:
    draw = random.Random(0)
    rule = BadWords(["abcabc", "bab"], PIECES)
    for _ in range(300):
        tokens = [draw.randrange(len(PIECES)) for _ in range(draw.randrange(40))]
        assert rule.forbidden(tokens) == by_definition(["abcabc", "bab"], tokens)


def test_a_character_of_two_tokens() -> None:
    """Words are bytes, so half a character is enough to know."""
    rule = BadWords(["\u00e9"], PIECES)
    assert rule.forbidden([11]) == {12, 13}
    assert rule.forbidden([1]) == {13}


def test_special_tokens_are_no_text() -> None:
    rule = BadWords(["ab"], PIECES)
    assert 0 not in rule.forbidden([1])
    assert rule.forbidden([1, 0, 0]) == rule.forbidden([1])

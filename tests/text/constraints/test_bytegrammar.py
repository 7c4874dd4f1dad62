"""Grammars of bytes let through the UTF-8 of the same characters, and no other bytes."""

from __future__ import annotations

import random

import pytest

from genkit.errors import UsageError
from genkit.text.constraints.bytegrammar import byte_grammar, byte_text, sequences

EDGES = [0, 1, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF]


@pytest.mark.parametrize("seed", range(12))
def test_sequences_are_the_utf8_of_a_range(seed: int) -> None:
    rng = random.Random(seed)
    low, high = sorted(rng.choice(EDGES) if rng.random() < 0.5 else rng.randrange(0x3000) for _ in range(2))
    if low < 0xD800 and high > 0xDFFF:  # callers leave surrogates out
        high = 0xD7FF
    found = list(sequences(low, high))
    count = sum(map(_size, found))
    assert count == high - low + 1
    for point in {low, high, *(rng.randint(low, high) for _ in range(200))}:
        data = chr(point).encode()
        assert (
            sum(len(s) == len(data) and all(a <= x <= b for x, (a, b) in zip(data, s, strict=True)) for s in found) == 1
        )


def _size(sequence: list[tuple[int, int]]) -> int:
    size = 1
    for a, b in sequence:
        size *= b - a + 1
    return size


def test_all_of_unicode_is_the_table_of_the_standard() -> None:
    """Table 3-7 of the Unicode standard: well-formed UTF-8 byte sequences."""
    tail = (0x80, 0xBF)
    assert [*sequences(0, 0xD7FF), *sequences(0xE000, 0x10FFFF)] == [
        [(0x00, 0x7F)],
        [(0xC2, 0xDF), tail],
        [(0xE0, 0xE0), (0xA0, 0xBF), tail],
        [(0xE1, 0xEC), tail, tail],
        [(0xED, 0xED), (0x80, 0x9F), tail],
        [(0xEE, 0xEF), tail, tail],
        [(0xF0, 0xF0), (0x90, 0xBF), tail, tail],
        [(0xF1, 0xF3), tail, tail, tail],
        [(0xF4, 0xF4), (0x80, 0x8F), tail, tail],
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ('root ::= "ab" # "é"\n', 'root ::= "\\x61\\x62" # "é"\n'),
        ('root ::= "é\\n\\"\\\\"{1,2}', 'root ::= "\\xC3\\xA9\\x0A\\x22\\x5C"{1,2}'),
        ('root ::= "\\u6F22\\x41"', 'root ::= "\\xE6\\xBC\\xA2\\x41"'),
        ("root ::= [a-c_-]*", "root ::= ([\\x2D\\x5F\\x61-\\x63])*"),
        ("root ::= [é-ê]+ | x", "root ::= ([\\xC3] [\\xA9-\\xAA])+ | x"),
        ("root ::= [\\]\\-\\t]", "root ::= ([\\x09\\x2D\\x5D])"),
        ("root ::= [z-a]", "root ::= [\\U0010FFFF]"),
        ("root ::= <[12]> !<think> a-b", "root ::= <[12]> !<think> a-b"),
    ],
)
def test_rewriting(rule: str, expected: str) -> None:
    assert byte_grammar(rule) == expected


def test_the_dot_and_what_is_negated_are_whole_characters() -> None:
    assert byte_grammar("root ::= .") == byte_grammar("root ::= [^]") == byte_grammar("root ::= [\\x00-\\U0010FFFF]")
    assert byte_grammar("root ::= [^\\x80-\\U0010FFFF]") == "root ::= ([\\x00-\\x7F])"


def test_numbers_of_no_characters_are_refused() -> None:
    for number in ("\\uD800", "\\UFFFFFFFF"):
        with pytest.raises(UsageError, match="no character"):
            byte_grammar(f'root ::= "{number}"')


def test_bytes_of_tokens() -> None:
    assert byte_text(b"a\xe6") == b"a\xc3\xa6"

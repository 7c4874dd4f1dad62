"""A GBNF grammar of bytes from one of characters.

llama.cpp reads characters from the bytes of tokens without asking whether they are
valid UTF-8: a class of many characters would let bytes pass that no text has. In the
vocabulary of genkit's own files a byte stands as the character of its number, and a
grammar of such characters lets through what UTF-8 allows, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from genkit.errors import UsageError
from genkit.text.constraints.pattern import Ranges, intersect, merge, without

_CHARACTERS: Ranges = [(0, 0xD7FF), (0xE000, 0x10FFFF)]
_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF))  # of one to four bytes
# comments and names of tokens stay; literals, classes and the dot are rewritten
_PARTS = re.compile(
    r"""\#[^\r\n]* | !?<[^>]*> | "(?P<literal>(?:\\.|[^"\\])*)" | \[(?P<not>\^?)(?P<class>(?:\\.|[^\]\\])*)\] | \.""",
    re.VERBOSE | re.DOTALL,
)
_POINT = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\?(.)", re.DOTALL)
_NAMED = {"\\t": 9, "\\n": 10, "\\r": 13}

Bytes = list[tuple[int, int]]  # a range for each byte of a sequence


def byte_text(piece: bytes) -> bytes:
    """A token's bytes as the vocabulary states them: UTF-8 of a character for each."""
    return piece.decode("latin-1").encode()


def byte_grammar(rule: str) -> str:
    """The grammar `rule`, sound GBNF, with its characters spelled in bytes.

    Raises:
        UsageError: a literal has a number that is no character's.
    """
    return _PARTS.sub(_rewritten, rule)


def _rewritten(match: re.Match[str]) -> str:
    part = match[0]
    if match["literal"] is not None:
        return '"' + "".join(map(_escape, _utf8(match["literal"]))) + '"'
    if match["class"] is not None:
        ranges = intersect(_CHARACTERS, list(_ranges(match["class"])))
        return _either(without(_CHARACTERS, ranges) if match["not"] else ranges)
    return _either(_CHARACTERS) if part == "." else part


def _points(text: str) -> Iterator[tuple[int, str]]:
    """The code points that a literal or a class spells, and how."""
    for match in _POINT.finditer(text):
        digits = match[1] or match[2] or match[3]
        yield (int(digits, 16) if digits else _NAMED.get(match[0], ord(match[4]))), match[0]


def _utf8(text: str) -> bytes:
    try:
        return "".join(chr(point) for point, _ in _points(text)).encode()
    except (ValueError, OverflowError) as error:
        raise UsageError(f'--grammar: "{text}" has a number that is no character', "write another") from error


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    points = list(_points(text))
    at = 0
    while at < len(points):
        low = points[at][0]
        if at + 2 < len(points) and points[at + 1][1] == "-":
            if low <= points[at + 2][0]:
                yield low, points[at + 2][0]
            at += 3
        else:
            yield low, low
            at += 1


def _either(ranges: Ranges) -> str:
    """The characters of `ranges`, one sequence of bytes or another."""
    found = [sequence for span in merge(ranges) for sequence in sequences(*span)]
    single = [sequence[0] for sequence in found if len(sequence) == 1]
    choices = [_class(single)] if single else []
    choices += [" ".join(_class([span]) for span in sequence) for sequence in found if len(sequence) > 1]
    if not choices:
        return "[\\U0010FFFF]"  # which is no byte, so nothing
    return "(" + " | ".join(choices) + ")"


def sequences(low: int, high: int) -> Iterator[Bytes]:
    """The UTF-8 of the characters from `low` to `high`, surrogates not among them, as ranges of bytes."""
    for first, last in _LENGTHS:
        if max(low, first) <= min(high, last):
            yield from _split(chr(max(low, first)).encode(), chr(min(high, last)).encode())


def _split(low: bytes, high: bytes) -> Iterator[Bytes]:
    """The sequences of one length between two: with the first leading byte, with those between, with the last."""
    a, b, rest = low[0], high[0], len(low) - 1
    least, most = b"\x80" * rest, b"\xbf" * rest
    if not rest:
        yield [(a, b)]
    elif a == b:
        yield from ([(a, a), *tail] for tail in _split(low[1:], high[1:]))
    else:
        first, last = low[1:] != least, high[1:] != most
        if first:
            yield from ([(a, a), *tail] for tail in _split(low[1:], most))
        if a + first <= b - last:
            yield [(a + first, b - last), *([(0x80, 0xBF)] * rest)]
        if last:
            yield from ([(b, b), *tail] for tail in _split(least, high[1:]))


def _class(spans: Bytes) -> str:
    return "[" + "".join(_escape(a) if a == b else f"{_escape(a)}-{_escape(b)}" for a, b in spans) + "]"


def _escape(byte: int) -> str:
    return f"\\x{byte:02X}"

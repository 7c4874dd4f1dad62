"""Regular expressions as GBNF, the grammars of llama.cpp.

What the grammar writes, `re.fullmatch` accepts. The converse holds up to one
restriction: `\\d`, `\\w`, `\\s` and classes that exclude them write ASCII alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from genkit.errors import UsageError

Ranges = list[tuple[int, int]]  # of code points, both ends included, in order, apart

TEXT: Ranges = [(0x01, 0xD7FF), (0xE000, 0x10FFFF)]  # NUL ends a string in llama.cpp; surrogates are no characters
ASCII: Ranges = [(0x01, 0x7F)]
_LIMIT = 1000  # of a repetition; llama.cpp refuses more than 2000 in all
_QUOTED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_SETS = {
    "DIGIT": [(0x30, 0x39)],
    "SPACE": [(0x09, 0x0D), (0x1C, 0x20)],
    "WORD": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
}


def regex_to_gbnf(pattern: str) -> str:
    """A grammar of the texts that match `pattern` from end to end.

    Raises:
        UsageError: not a regular expression, or one with look-around, back-references
            or flags, which no grammar can express.
    """
    return f"root ::= {expression(pattern)}"


def expression(pattern: str, *, quoted: bool = False, search: bool = False) -> str:
    """The right side of a rule for `pattern`.

    Args:
        quoted: inside a JSON string, with its escapes.
        search: the match may lie anywhere in the text, unless the pattern is anchored.
    """
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"--regex {pattern!r} is not a regular expression: {error}",
            "put a backslash before a sign that stands for itself",
        ) from error
    if parsed.state.flags & (re.IGNORECASE | re.MULTILINE | re.LOCALE):
        raise _unknown(pattern, "flags other than s, a and x")
    nodes = list(parsed)
    begins = _anchored(nodes[:1], (op.AT_BEGINNING, op.AT_BEGINNING_STRING))
    ends = _anchored(nodes[-1:], (op.AT_END, op.AT_END_STRING))
    nodes = nodes[begins : len(nodes) - ends]
    writer = _Writer(pattern, bool(parsed.state.flags & re.DOTALL), quoted)
    body = writer.sequence(nodes)
    filler = f"({writer.one_of(TEXT)})*"
    return f"{'' if begins or not search else filler + ' '}{body}{'' if ends or not search else ' ' + filler}"


def _anchored(nodes: list[Any], kinds: tuple[Any, ...]) -> bool:
    return bool(nodes) and nodes[0][0] is op.AT and nodes[0][1] in kinds


class _Writer:
    """Parsed nodes of one pattern to GBNF."""

    def __init__(self, pattern: str, dotall: bool, quoted: bool) -> None:
        self.pattern, self.dotall, self.quoted = pattern, dotall, quoted

    def sequence(self, nodes: Iterable[Any]) -> str:
        return " ".join(self.node(*node) for node in nodes) or '""'

    def node(self, kind: Any, value: Any) -> str:
        if kind is op.LITERAL:
            return self.one_of([(value, value)])
        if kind is op.NOT_LITERAL:
            return self.one_of(without(TEXT, [(value, value)]))
        if kind is op.ANY:
            return self.one_of(TEXT if self.dotall else without(TEXT, [(10, 10)]))
        if kind is op.IN:
            return self.one_of(self.members(value))
        if kind is op.BRANCH:
            return "(" + " | ".join(self.sequence(branch) for branch in value[1]) + ")"
        if kind is op.SUBPATTERN and not value[1] and not value[2]:
            return f"({self.sequence(value[3])})"
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, high, inner = value
            if low > _LIMIT or (high is not op.MAXREPEAT and high > _LIMIT):
                raise _unknown(self.pattern, f"more than {_LIMIT} repetitions")
            return f"({self.sequence(inner)}){{{low},{'' if high is op.MAXREPEAT else high}}}"
        raise _unknown(self.pattern, _NAMES.get(str(kind), str(kind).lower().replace("_", " ")))

    def members(self, items: list[Any]) -> Ranges:
        """The characters of a class."""
        negated = items[0][0] is op.NEGATE
        found: Ranges = []
        universe = TEXT
        for kind, value in items[negated:]:
            if kind is op.LITERAL:
                found.append((value, value))
            elif kind is op.RANGE:
                found.append(value)
            else:  # what a category holds outside ASCII is not looked up: left out, or out with all that is outside
                members = _SETS[str(value).rpartition("_")[2]]
                found += without(ASCII, members) if "_NOT_" in str(value) else members
                universe = ASCII if negated else universe
        return without(universe, found) if negated else intersect(TEXT, found)

    def one_of(self, ranges: Ranges) -> str:
        """A class; in a JSON string without what must be escaped there, with the escapes beside it."""
        if not ranges:
            raise _unknown(self.pattern, "a class without characters")
        if not self.quoted:
            return character_class(ranges)
        special = [*((ord(c), ord(c)) for c in _QUOTED), (0, 0x1F)]
        plain = without(ranges, special)
        choices = [character_class(plain)] if plain else []
        choices += [literal(text) for c, text in _QUOTED.items() if any(a <= ord(c) <= b for a, b in ranges)]
        if not choices:
            raise _unknown(self.pattern, "control characters in JSON")
        return choices[0] if len(choices) == 1 else "(" + " | ".join(choices) + ")"


_NAMES = {
    "ASSERT": "look-around", "ASSERT_NOT": "look-around", "GROUPREF": "back-references",
    "GROUPREF_EXISTS": "conditions", "AT": "anchors inside", "SUBPATTERN": "flags inside",
}  # fmt: skip


def _unknown(pattern: str, what: str) -> UsageError:
    return UsageError(f"--regex {pattern!r}: {what} cannot be enforced", "write it without")


def character_class(ranges: Ranges) -> str:
    """GBNF of one character."""
    return "[" + "".join(_escape(a) if a == b else f"{_escape(a)}-{_escape(b)}" for a, b in ranges) + "]"


def literal(text: str) -> str:
    """GBNF of a text."""
    return '"' + "".join(c if c.isalnum() and c.isascii() else _escape(ord(c)) for c in text) + '"'


def _escape(point: int) -> str:
    return f"\\x{point:02X}" if point < 0x80 else f"\\U{point:08X}"


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """The code points of `ranges` that are not in `removed`."""
    kept = []
    for low, high in ranges:
        for a, b in merge(removed):
            if a > high or b < low:
                continue
            if low < a:
                kept.append((low, a - 1))
            low = b + 1
        if low <= high:
            kept.append((low, high))
    return kept


def intersect(ranges: Ranges, others: Ranges) -> Ranges:
    """The code points in both."""
    return [(max(a, c), min(b, d)) for c, d in merge(others) for a, b in ranges if max(a, c) <= min(b, d)]


def merge(ranges: Ranges) -> Ranges:
    """In order, overlaps joined."""

    def join(done: Ranges, span: tuple[int, int]) -> Ranges:
        if done and span[0] <= done[-1][1] + 1:
            return [*done[:-1], (done[-1][0], max(done[-1][1], span[1]))]
        return [*done, span]

    return functools.reduce(join, sorted(ranges), [])

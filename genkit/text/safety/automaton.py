"""Regular expressions in time linear in the text, whatever the expression.

Python's own matcher goes back and tries again, which takes exponential time on patterns such
as `(a+)+b`. Here a pattern becomes an automaton of Thompson (1968, "Regular Expression Search
Algorithm"), whose states are all followed at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from re import _compiler, _parser  # type: ignore[attr-defined]
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any

from genkit.errors import UsageError

_MOST = 5_000  # states; a text of T characters takes up to T times as many steps

Test = Callable[[str, int], bool]

_NO_GRAMMAR = {
    op.GROUPREF: "a back-reference",
    op.GROUPREF_EXISTS: "a conditional group",
    op.ASSERT: "look-around",
    op.ASSERT_NOT: "look-around",
    op.ATOMIC_GROUP: "an atomic group",
    op.POSSESSIVE_REPEAT: "a possessive repetition",
}


class Automaton:
    """A pattern, matched anywhere in a text and without regard to capitals.

    Raises:
        UsageError: not a regular expression, or one with back-references or look-around, or
            one that is too large or matches the empty text.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        # a state is a test of one character, of a place between two, or neither, and the states after it
        self._chars: dict[int, Callable[[str], bool]] = {}
        self._places: dict[int, Test] = {}
        self._after: list[tuple[int, ...]] = [()]
        self._end, self._built = 0, 0
        try:
            parsed = _parser.parse(pattern, re.IGNORECASE)
            self._state, self._flags = parsed.state, parsed.state.flags
            self._start = self._sequence(parsed, self._end)
        except (re.error, RecursionError, OverflowError) as error:
            raise self._refused(f"is not a regular expression: {error}", "put a backslash before a sign") from None
        if self._end in self._closure({self._start}, "", 0):
            raise self._refused("matches the empty text, so it would reject every text", "let it match something")

    def reaches(self, text: str, start: int = 0) -> bool:
        """Whether a match of some part of `text` ends behind `start`."""
        states: Iterable[int] = ()
        for place in range(len(text) + 1):
            now = self._closure({*states, self._start}, text, place)
            if self._end in now and place > start:
                return True
            if place < len(text):
                states = {self._after[s][0] for s in now if s in self._chars and self._chars[s](text[place])}
        return False

    def _closure(self, states: set[int], text: str, place: int) -> set[int]:
        """What can be reached without a character."""
        found, pending = set(states), list(states)
        while pending:
            state = pending.pop()
            if state in self._chars or (state in self._places and not self._places[state](text, place)):
                continue
            for after in self._after[state]:
                if after not in found:
                    found.add(after)
                    pending.append(after)
        return found

    def _add(self, *after: int) -> int:
        self._after.append(after)
        return len(self._after) - 1

    def _sequence(self, nodes: Any, after: int) -> int:
        self._built += 1 + len(nodes)
        if self._built > _MOST:
            raise self._refused(f"has more than {_MOST:,} states", "repeat less, or give several patterns")
        for node in reversed(list(nodes)):
            after = self._node(node, after)
        return after

    def _node(self, node: Any, after: int) -> int:
        kind, value = node
        if kind in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY):
            state = self._add(after)
            self._chars[state] = self._char(node)
            return state
        if kind is op.AT:
            state = self._add(after)
            self._places[state] = self._place(value)
            return state
        if kind is op.BRANCH:
            return self._add(*(self._sequence(branch, after) for branch in value[1]))
        if kind is op.SUBPATTERN:
            if value[1] or value[2]:
                raise self._refused("has flags for a part of it", "put them at its beginning")
            return self._sequence(value[3], after)
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, body = value
            return self._repeat(least, most, body, after)
        raise self._refused(f"has {_NO_GRAMMAR.get(kind, kind)}, which takes no linear time", "write it without")

    def _repeat(self, least: int, most: Any, body: Any, after: int) -> int:
        if most is op.MAXREPEAT:
            loop = self._add()
            self._after[loop] = (self._sequence(body, loop), after)
            after = loop
        else:
            done = after
            for _ in range(most - least):
                after = self._add(self._sequence(body, after), done)
        for _ in range(least):
            after = self._sequence(body, after)
        return after

    def _char(self, node: Any) -> Callable[[str], bool]:
        """Whether a character is one; Python's own matcher is asked, once for each character."""
        alone = _compiler.compile(_parser.SubPattern(self._state, [node]), self._flags)
        known: dict[str, bool] = {}

        def test(char: str) -> bool:
            if char not in known:
                known[char] = alone.fullmatch(char) is not None
            return known[char]

        return test

    def _place(self, where: Any) -> Test:
        lines = bool(self._flags & re.MULTILINE)
        if where is op.AT_BEGINNING and lines:
            return lambda text, at: at == 0 or text[at - 1] == "\n"
        if where is op.AT_END and lines:
            return lambda text, at: at == len(text) or text[at] == "\n"
        if where is op.AT_END:
            return lambda text, at: at == len(text) or (at == len(text) - 1 and text[at] == "\n")
        if where in (op.AT_BEGINNING, op.AT_BEGINNING_STRING):
            return lambda text, at: at == 0
        if where is op.AT_END_STRING:
            return lambda text, at: at == len(text)
        wanted = where is op.AT_BOUNDARY
        word = re.compile(r"\w", self._flags & re.ASCII).match
        return lambda text, at: (
            ((at > 0 and bool(word(text[at - 1]))) != (at < len(text) and bool(word(text[at])))) is wanted
        )

    def _refused(self, why: str, remedy: str) -> UsageError:
        return UsageError(f"--filter-pattern {self.pattern!r} {why}", remedy)

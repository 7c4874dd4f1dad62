"""Bad words: text that may not appear, whatever tokens spell it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class BadWords:
    """Which tokens would complete one of the words.

    The words are compared as bytes, in which UTF-8 has no false matches. A token
    completes a word that it contains, or whose beginning ends the text before and
    whose rest begins the token.

    Args:
        words: not empty.
        pieces: the bytes that each token stands for, by id; None for special tokens.
    """

    def __init__(self, words: Sequence[str], pieces: Sequence[bytes | None]) -> None:
        self._words = [word.encode() for word in words]
        self._pieces = [piece or b"" for piece in pieces]
        self._reach = max(map(len, self._words)) - 1  # how much of the text before matters
        order = sorted(range(len(pieces)), key=self._pieces.__getitem__)
        ordered = [self._pieces[token] for token in order]

        def beginning(text: bytes) -> frozenset[int]:
            first = bisect_left(ordered, text)
            past = bisect_left(ordered, True, lo=first, key=lambda piece: not piece.startswith(text))
            return frozenset(order[first:past])

        self._always = frozenset(
            t for t, piece in enumerate(self._pieces) if any(word in piece for word in self._words)
        )
        self._endings: list[tuple[bytes, frozenset[int]]] = [
            (word[:cut], tokens)
            for word in self._words
            for cut in range(1, len(word))
            if (tokens := beginning(word[cut:]))
        ]

    def forbidden(self, tokens: Sequence[int]) -> frozenset[int]:
        """The tokens that would complete a word after `tokens`, prompt included."""
        tail = self._tail(tokens)
        return self._always.union(*(after for begun, after in self._endings if tail.endswith(begun)))

    def _tail(self, tokens: Sequence[int]) -> bytes:
        """The end of the text, as long as a word's beginning may be."""
        tail = b""
        for token in reversed(tokens):
            if len(tail) >= self._reach:
                break
            tail = self._pieces[token] + tail
        return tail

"""From tokens to text as soon as it is certain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol


class Decoder(Protocol):
    """Text out of one token at a time; what is unfinished waits. See `tokenizer.StreamDecoder`."""

    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


class Writer:
    """The text of one continuation; what may become a stop string is held back.

    Args:
        decoder: None for an engine that gives the text itself.
        stop: the continuation ends before the first of these.
        ends: tokens that end it too, as the end of the text does.

    Attributes:
        tokens: how many were pushed.
    """

    def __init__(self, decoder: Decoder | None, stop: Sequence[str], ends: Collection[int] = ()) -> None:
        self._decoder, self._stop, self._ends = decoder, stop, ends
        self._held, self.tokens = "", 0

    def push(self, token: int, done: str | None, text: str | None = None) -> tuple[str, str | None]:
        """The text that `token` makes certain, and how the continuation ended, if it did.

        Args:
            done: what the engine says: None, "eos" or "length".
            text: what the token reads as, where there is no decoder.

        Returns:
            the text, and None, "stop", "eos" or "length".
        """
        self.tokens += 1
        if token in self._ends:
            done = "eos"
        if self._decoder is None:
            self._held += text or ""
        else:
            self._held += "" if done == "eos" else self._decoder.push(token)
            if done is not None:
                self._held += self._decoder.flush()
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            return self._held[: min(found)], "stop"
        keep = 0 if done else max((_overlap(self._held, s) for s in self._stop), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, done


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

"""Choosing and training a tokenizer while a corpus streams by."""

from __future__ import annotations

import random

from genkit.text.tokenizer import Tokenizer, train_bpe, train_char
from genkit.text.trainconfig import TextTrainConfig

KINDS = ("auto", "char", "bpe")
CHAR_BYTES = 2_000_000  # `--tokenizer auto` takes characters up to here
_SAMPLE_FOR_TOKEN = 4096  # characters of text to train bpe on, for each entry of the vocabulary
_MAX_SAMPLE = 32 << 20


class Learner:
    """The tokenizer that `config.tokenizer` asks for, from one reading of the text.

    Args:
        given: a tokenizer to use instead; then there is nothing to learn.
    """

    def __init__(self, config: TextTrainConfig, given: Tokenizer | None = None) -> None:
        self._vocab_size = config.vocab_size
        self._kind = config.tokenizer if given is None else "given"
        self._given = given
        self._alphabet: set[str] = set()
        self._sample = Sample(min(_MAX_SAMPLE, _SAMPLE_FOR_TOKEN * config.vocab_size))
        self._bytes = 0

    def add(self, text: str) -> None:
        """Learn from training text."""
        if self._kind == "auto":
            self._bytes += utf8_length(text)
            if self._bytes > CHAR_BYTES:
                self._kind = "bpe"
        if self._kind in ("auto", "bpe"):
            self._sample.add(text)
        self.add_alphabet(text)

    def add_alphabet(self, text: str) -> None:
        """Learn from validation text: its characters only."""
        if self._kind in ("auto", "char"):
            self._alphabet.update(text)

    def tokenizer(self) -> Tokenizer:
        """What was learnt."""
        if self._given is not None:
            return self._given
        if self._kind == "bpe":
            return train_bpe(self._sample.texts, self._vocab_size)
        return train_char(self._alphabet)


class Sample:
    """An even sample of a stream of unknown length: each text has the same chance to stay.

    Args:
        limit: characters to keep at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._random = random.Random(0)  # noqa: S311
        self._chance = 1.0
        self._kept: list[tuple[float, str]] = []
        self._size = 0

    def add(self, text: str) -> None:
        """Keep `text`, perhaps, and perhaps drop others for it."""
        ticket = self._random.random()
        if ticket >= self._chance:
            return
        self._kept.append((ticket, text))
        self._size += len(text)
        while self._size > self._limit:
            self._chance /= 2
            self._kept = [(t, kept) for t, kept in self._kept if t < self._chance]
            self._size = sum(len(kept) for _, kept in self._kept)

    @property
    def texts(self) -> list[str]:
        """What is kept, in order."""
        return [text for _, text in self._kept]


def utf8_length(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())

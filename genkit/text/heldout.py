"""Text to be measured, as one stream of token ids in bounded memory."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

import numpy as np

from genkit.errors import InputError
from genkit.text.documents import Piece, iter_pieces, list_files
from genkit.text.evalconfig import EvalConfig
from genkit.text.learner import utf8_length
from genkit.text.tokenfiles import Encoder
from genkit.text.tokenizer import Tokenizer

_GROUP = 1 << 18  # characters to tokenize at a time


class HeldOut:
    """The documents of `config.data`, one behind the other, each followed by the end-of-text token.

    That is how training sees a corpus. Iterating yields the ids, (n,) int64, a chunk at
    a time, and counts what was yielded so far. With `config.max_tokens` the text is cut
    off where so many tokens are full; no end-of-text token follows the cut.

    Attributes:
        tokens: all of them; `ends` are end-of-text tokens, `unknown` stand for
            characters that the tokenizer has not.
        bytes: UTF-8 bytes of the text.
        documents: begun.
        fraction: share of the data, from 0 to 1.

    Raises:
        InputError: while iterating: a path is missing, unreadable, not text or empty.
    """

    def __init__(self, config: EvalConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self.tokens = self.ends = self.unknown = self.bytes = self.documents = 0
        self.fraction = 0.0
        self._room = math.inf if config.max_tokens is None else config.max_tokens
        self._full = False
        self._unknown = tokenizer.unknown_id

    def __iter__(self) -> Iterator[np.ndarray]:
        encode = Encoder(self._tokenizer, np.dtype(np.int64))
        for pieces in self._groups():
            chunks = []
            for piece, encoded in zip(pieces, encode([piece.text for piece in pieces]), strict=True):
                chunks.append(self._taken(piece, np.frombuffer(encoded, np.int64)))
                if self._full:
                    break
            yield np.concatenate(chunks)
            if self._full:
                break
        self.fraction = 1.0

    def _taken(self, piece: Piece, ids: np.ndarray) -> np.ndarray:
        """The ids of a piece, or of the beginning that there is room for, after counting them."""
        text, room = piece.text, self._room - self.tokens
        if len(ids) > room:
            text, ids = self._beginning(text, int(room))
        self._full = len(text) < len(piece.text) or len(ids) == room
        if self._unknown is not None:
            self.unknown += int((ids == self._unknown).sum())
        if piece.last and not self._full:
            ids = np.append(ids, self._tokenizer.eos_id)
            self.ends += 1
        self.tokens += len(ids)
        self.bytes += utf8_length(text)
        self.documents += piece.first
        return ids

    def _beginning(self, text: str, room: int) -> tuple[str, np.ndarray]:
        """As much of a text as makes `room` tokens at most, by itself."""
        length = bisect.bisect_right(range(len(text)), room, key=lambda n: len(self._tokenizer.encode(text[:n]))) - 1
        return text[:length], np.array(self._tokenizer.encode(text[:length]), np.int64)

    def _groups(self) -> Iterator[list[Piece]]:
        """The pieces of all files, as many together as are worth a call of the tokenizer."""
        sizes = [sum(file.stat().st_size for file in list_files([path])) for path in self._config.data]
        done = 0
        for path, size in zip(self._config.data, sizes, strict=True):
            pieces: list[Piece] = []
            found, characters = False, 0
            for piece in iter_pieces(
                list_files([path]), text_field=self._config.text_field, errors=self._config.encoding_errors
            ):
                pieces.append(piece)
                characters += len(piece.text)
                if characters >= _GROUP:
                    self.fraction = (done + piece.position) / sum(sizes)
                    yield pieces
                    pieces, found, characters = [], True, 0
            if pieces:
                yield pieces
            elif not found:
                raise InputError(f"there is no text in {path}", "leave it out, or give one that is not empty")
            done += size

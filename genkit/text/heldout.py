"""Text to be measured, as one stream of token ids in bounded memory."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

import numpy as np

from genkit.errors import InputError
from genkit.text.chat import TEMPLATE, ChatTemplate
from genkit.text.documents import Piece, iter_pieces, list_files
from genkit.text.encoder import Encoder, answers, encode_conversations
from genkit.text.evalconfig import EvalConfig
from genkit.text.learner import utf8_length
from genkit.text.losses import IGNORE
from genkit.text.split import Part
from genkit.text.tokenizer import Tokenizer

_GROUP = 1 << 18  # characters to tokenize at a time

Chunk = tuple[np.ndarray, np.ndarray]


class HeldOut:
    """The documents of `config.data`, one behind the other, each followed by the end-of-text token.

    That is how training sees a corpus; of a conversation the answers alone count. With
    `config.max_tokens` the text ends where so many tokens are full, a conversation
    before the first that does not fit; no end-of-text token follows the cut.

    Iterating yields the ids (n,) int64 of a chunk, and the same again with IGNORE for
    those that do not count. What was yielded so far, and counts, is in the attributes.

    Attributes:
        tokens: all of them; `ends` are end-of-text tokens, `unknown` stand for
            characters that the tokenizer has not.
        bytes: UTF-8 bytes of the text.
        documents: begun; `conversations` of them are one.
        fraction: share of the data, from 0 to 1.

    Raises:
        InputError: while iterating: a path is missing, unreadable, not text or empty.
    """

    def __init__(self, config: EvalConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self.tokens = self.ends = self.unknown = self.bytes = self.documents = self.conversations = 0
        self.fraction = 0.0
        self._unknown = tokenizer.unknown_id
        self._room = math.inf if config.max_tokens is None else config.max_tokens
        self._full = False

    def __iter__(self) -> Iterator[Chunk]:
        encode, most = Encoder(self._tokenizer, np.dtype(np.int64)), self._room
        for pieces in self._groups():
            texts = iter(encode([piece.text for piece in pieces if piece.spans is None]))
            chats = encode_conversations(self._tokenizer, [_part(piece) for piece in pieces if piece.spans is not None])
            chunks = []
            for piece in pieces:
                chunks.append(
                    self._text(piece, next(texts)) if piece.spans is None else self._chat(piece, *next(chats))
                )
                if self._full:
                    break
            ids, targets = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
            self._count(targets)
            self.fraction = max(self.fraction, 1 - self._room / most if most < math.inf else 0.0)
            yield ids, targets
            if self._full:
                break

    def _text(self, piece: Piece, ids: np.ndarray) -> Chunk:
        """A piece, or the beginning that there is room for."""
        text = piece.text
        if len(ids) > self._room:
            text, ids = self._beginning(text, int(self._room))
            self._full = True
        elif piece.last and len(ids) < self._room:
            ids = np.append(ids, self._tokenizer.eos_id)
        self._room -= len(ids)
        self._full = self._full or self._room == 0
        self.documents += piece.first
        self.bytes += utf8_length(text)
        return ids, ids

    def _chat(self, piece: Piece, ids: np.ndarray, counts: np.ndarray) -> Chunk:
        """A conversation, or nothing where there is no room for all of this piece."""
        spans = piece.spans or ()
        if piece.last:  # a span beyond the text takes in the end-of-text token
            ends_answer = bool(spans) and spans[-1][1] > len(piece.text)
            ids, counts = np.append(ids, self._tokenizer.eos_id), np.append(counts, np.uint8(ends_answer))
        self._full = len(ids) > self._room
        if self._full:
            return ids[:0], ids[:0]
        self._room -= len(ids)
        self.documents += piece.first
        self.conversations += piece.first
        self.bytes += utf8_length(answers(_part(piece), self._tokenizer.eos))
        return ids, np.where(counts, ids, IGNORE)

    def _count(self, targets: np.ndarray) -> None:
        self.tokens += int((targets != IGNORE).sum())
        self.ends += int((targets == self._tokenizer.eos_id).sum())
        if self._unknown is not None:
            self.unknown += int((targets == self._unknown).sum())

    def _beginning(self, text: str, room: int) -> tuple[str, np.ndarray]:
        """As much of a text as makes `room` tokens at most, by itself."""
        length = bisect.bisect_right(range(len(text)), room, key=lambda n: len(self._tokenizer.encode(text[:n]))) - 1
        return text[:length], np.array(self._tokenizer.encode(text[:length]), np.int64)

    def _groups(self) -> Iterator[list[Piece]]:
        """The pieces of all files, as many together as are worth a call of the tokenizer."""
        config, tokenizer, done = self._config, self._tokenizer, 0
        template = None
        if config.text_field == "text":
            template = ChatTemplate(
                tokenizer.chat_template or TEMPLATE, specials=tokenizer.specials, bos=tokenizer.bos, eos=tokenizer.eos
            )
        sizes = [sum(file.stat().st_size for file in list_files([path])) for path in config.data]
        for path, size in zip(config.data, sizes, strict=True):
            group: list[Piece] = []
            found, characters = False, 0
            for piece in iter_pieces(
                list_files([path]), text_field=config.text_field, errors=config.encoding_errors, template=template
            ):
                group.append(piece)
                characters += len(piece.text)
                if characters >= _GROUP:
                    self.fraction = (done + piece.position) / sum(sizes)
                    yield group
                    group, found, characters = [], True, 0
            done += size
            self.fraction = done / max(1, sum(sizes))
            if group:
                yield group
            elif not found:
                raise InputError(f"there is no text in {path}", "leave it out, or give one that is not empty")


def _part(piece: Piece) -> Part:
    return Part(True, piece.text, piece.last, piece.spans)

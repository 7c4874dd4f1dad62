"""Writing a corpus as files of token ids, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from genkit.files import atomic_write
from genkit.text.chat import TEMPLATE, ChatTemplate
from genkit.text.encoder import Encoder, answers, encode_conversations
from genkit.text.learner import Learner, utf8_length
from genkit.text.readings import Progress, Readings
from genkit.text.split import Part
from genkit.text.tokenizer import END_OF_TEXT, Tokenizer
from genkit.text.trainconfig import TextTrainConfig

TRAIN, VAL = "train.bin", "val.bin"
TRAIN_MASK, VAL_MASK = "train.mask", "val.mask"  # a byte a token: whether it counts as a target
_BATCH = 1 << 20  # characters to tokenize at a time


def build(config: TextTrainConfig, folder: Path, tokenizer: Tokenizer | None, progress: Progress) -> dict[str, Any]:
    """Read twice, write the token files and the tokenizer, and return the facts about them."""
    template = ChatTemplate(
        (tokenizer and tokenizer.chat_template) or TEMPLATE,
        specials=tokenizer.specials if tokenizer else (),
        bos=tokenizer.bos if tokenizer else END_OF_TEXT,
        eos=tokenizer.eos if tokenizer else END_OF_TEXT,
    )
    readings = Readings(config, template, progress)
    learner = Learner(config, tokenizer)
    readings.survey(learner)
    tokenizer = learner.tokenizer()
    if readings.conversations:
        tokenizer.chat_template = template.source

    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    ends = []  # of the tokens of each source
    with contextlib.ExitStack() as stack:

        def side(name: str, mask: str) -> _Side:
            file = stack.enter_context(atomic_write(folder / name))
            return _Side(file, stack.enter_context(atomic_write(folder / mask)) if readings.conversations else None)

        train, val = side(TRAIN, TRAIN_MASK), side(VAL, VAL_MASK)
        writer = _Writer(tokenizer, dtype, train, val)
        for number in range(len(readings.sources)):
            writer.write(readings.parts(number))
            ends.append(train.tokens)
        writer.write(readings.validation_parts())
    tokenizer.save(folder)
    progress(readings.total, readings.total)
    return {
        "dtype": dtype.name,
        "documents": readings.documents,
        "duplicates": readings.duplicates,
        "conversations": readings.conversations,
        "skipped": [error.message for error in readings.skipped.values()],
        "bytes": train.bytes + val.bytes,
        "bytes_val": val.bytes,
        "bytes_val_targets": val.target_bytes,
        "tokens_train": train.tokens,
        "tokens_val": val.tokens,
        "targets_train": train.targets,
        "targets_val": val.targets,
        "segments": _segments([source.weight for source in readings.sources], ends),
    }


def _segments(weights: list[float], ends: list[int]) -> list[tuple[int, int, float]]:
    """Start, stop and weight of neighbouring sources of one weight, together."""
    segments: list[tuple[int, int, float]] = []
    start = 0
    for weight, stop in zip(weights, ends, strict=True):
        if segments and segments[-1][2] == weight:
            segments[-1] = (segments[-1][0], stop, weight)
        elif stop > start:
            segments.append((start, stop, weight))
        start = stop
    return segments


@dataclass
class _Side:
    """A token file being written, and its mask, if there is one.

    Attributes:
        tokens: written so far; `targets` of them count.
        bytes: of the text; `target_bytes` of them are text that counts.
    """

    file: BinaryIO
    mask: BinaryIO | None
    tokens: int = 0
    targets: int = 0
    bytes: int = 0
    target_bytes: int = 0

    def add(self, ids: np.ndarray, counts: np.ndarray | None) -> None:
        self.file.write(ids.tobytes())
        self.tokens += len(ids)
        self.targets += len(ids) if counts is None else int(counts.sum())
        if self.mask is not None:
            self.mask.write((np.ones(len(ids), dtype=np.uint8) if counts is None else counts).tobytes())


class _Writer:
    """Tokenizes parts, many at a time, and writes each to its side."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype, train: _Side, val: _Side) -> None:
        self._tokenizer = tokenizer
        self._encode = Encoder(tokenizer, dtype)
        self._eos = np.array([tokenizer.eos_id], dtype)
        self._dtype = dtype
        self._sides = (train, val)

    def write(self, parts: Iterable[Part]) -> None:
        """Tokenize and write all of them."""
        waiting: list[Part] = []
        size = 0
        for part in parts:
            waiting.append(part)
            size += len(part.text)
            if size >= _BATCH:
                self._flush(waiting)
                waiting, size = [], 0
        self._flush(waiting)

    def _flush(self, parts: list[Part]) -> None:
        texts = iter(self._encode([part.text for part in parts if part.spans is None]))
        chats = encode_conversations(self._tokenizer, [part for part in parts if part.spans is not None])
        for part in parts:
            side = self._sides[part.held_out]
            size = utf8_length(part.text)
            side.bytes += size
            if part.spans is None:
                side.target_bytes += size
                side.add(np.append(next(texts), self._eos) if part.last else next(texts), None)
                continue
            ids, counts = next(chats)
            side.target_bytes += utf8_length(answers(part, self._tokenizer.eos))
            if part.last:
                ends_answer = bool(part.spans) and part.spans[-1][1] > len(part.text)
                ids, counts = np.append(ids, self._eos), np.append(counts, np.uint8(ends_answer))
            side.add(ids.astype(self._dtype), counts)

"""Writing a corpus as files of token ids, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from genkit.errors import InputError
from genkit.files import atomic_write
from genkit.text.config import TextTrainConfig
from genkit.text.documents import Piece, iter_pieces, list_files
from genkit.text.learner import Learner, utf8_length
from genkit.text.split import Part, Split
from genkit.text.tokenizer import Tokenizer
from genkit.text.words import words

TRAIN, VAL = "train.bin", "val.bin"
_BATCH = 1 << 20  # characters to tokenize at a time
_CACHED_CHARACTERS = 4_000_000  # of words whose ids are kept

Progress = Callable[[int, int], None]


def build(config: TextTrainConfig, folder: Path, tokenizer: Tokenizer | None, progress: Progress) -> dict[str, Any]:
    """Read twice, write the token files and the tokenizer, and return their sizes."""
    paths, val_paths = config.data, (config.val_data,) if config.val_data else ()
    size, val_size = (sum(file.stat().st_size for file in list_files(group)) for group in (paths, val_paths))
    total = 2 * (size + val_size)

    def read(group: Iterable[str], done: int) -> Iterator[Piece]:
        for path in group:
            files = list_files([path])
            said = position = 0
            for piece in iter_pieces(files, text_field=config.text_field, errors=config.encoding_errors):
                yield piece
                position = piece.position
                if position - said > _BATCH:
                    said = position
                    progress(done + said, total)
            if not position:
                raise InputError(f"there is no text in {path}", "leave it out, or give one that is not empty")
            done += sum(file.stat().st_size for file in files)

    # --- first reading: sizes, alphabet, sample ---------------------------------------
    split = Split(0.0 if config.val_data else config.val_fraction)
    learner = Learner(config, tokenizer)
    documents = 0
    for piece in read(paths, 0):
        split.survey(piece)
        learner.add(piece.text)
        documents += piece.last
    for piece in read(val_paths, size):
        learner.add_alphabet(piece.text)
        documents += piece.last
    tokenizer = learner.tokenizer()

    # --- second reading: tokens ---------------------------------------------------------
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    parts = itertools.chain(
        (part for piece in read(paths, size + val_size) for part in split.divide(piece)),
        (Part(True, piece.text, piece.last) for piece in read(val_paths, 2 * size + val_size)),
    )
    with atomic_write(folder / TRAIN) as train_file, atomic_write(folder / VAL) as val_file:
        train, val = _write(parts, Encoder(tokenizer, dtype), np.array(tokenizer.eos_id, dtype), train_file, val_file)
    tokenizer.save(folder)
    progress(total, total)
    return {
        "dtype": dtype.name,
        "documents": documents,
        "bytes": train.bytes + val.bytes,
        "bytes_val": val.bytes,
        "tokens_train": train.tokens,
        "tokens_val": val.tokens,
    }


@dataclass
class _Side:
    """A token file being written."""

    file: BinaryIO
    tokens: int = 0
    bytes: int = 0  # of the text


def _write(
    parts: Iterable[Part], encode: Encoder, eos: np.ndarray, train_file: BinaryIO, val_file: BinaryIO
) -> tuple[_Side, _Side]:
    train, val = _Side(train_file), _Side(val_file)
    waiting: list[Part] = []
    size = 0

    def flush() -> None:
        for part, ids in zip(waiting, encode([part.text for part in waiting]), strict=True):
            side = val if part.held_out else train
            ids += eos.tobytes() if part.last else b""
            side.file.write(ids)
            side.tokens += len(ids) // eos.itemsize
            side.bytes += utf8_length(part.text)
        waiting.clear()

    for part in parts:
        waiting.append(part)
        size += len(part.text)
        if size >= _BATCH:
            flush()
            size = 0
    flush()
    return train, val


class Encoder:
    """Texts to the bytes of their token ids.

    Text is mostly words seen before: where the tokenizer allows it, their ids are
    looked up, several times faster than encoding them.

    Args:
        dtype: of the ids in the bytes.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._known: dict[str, bytes] = {}
        self._size = 0  # characters in `_known`

    def __call__(self, texts: Sequence[str]) -> list[bytes]:
        if not self._tokenizer.splits_at_words:
            return self._encode(texts)
        found, ends = words(texts)
        ids = list(map(self._known.get, found))
        if None in ids:
            new = [place for place, known in enumerate(ids) if known is None]
            self._learn(list({found[place] for place in new}))
            for place in new:
                ids[place] = self._known[found[place]]
        known = cast(list[bytes], ids)
        joined = [b"".join(known[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        if self._size > _CACHED_CHARACTERS:
            self._known, self._size = {}, 0
        return joined

    def _learn(self, new: list[str]) -> None:
        self._known.update(zip(new, self._encode(new), strict=True))
        self._size += sum(map(len, new))

    def _encode(self, texts: Sequence[str]) -> list[bytes]:
        return [np.array(ids, dtype=self._dtype).tobytes() for ids in self._tokenizer.encode_batch(texts)]

"""Texts to token ids, by the gigabyte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from genkit.text.split import Part
from genkit.text.tokenizer import Tokenizer
from genkit.text.words import word_bytes
from genkit.text.wordtable import WordTable, pack

_CONVERSATIONS = 64  # to tokenize at a time: their offsets are large


class Encoder:
    """Texts to arrays of their token ids.

    Text is mostly words seen before: where the tokenizer allows it, their ids are
    looked up, several times faster than encoding them.

    Args:
        dtype: of the ids.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._known = WordTable(dtype)

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not self._tokenizer.splits_at_words:
            return [np.array(ids, dtype=self._dtype) for ids in self._tokenizer.encode_batch(texts)]
        data, stops, ends = word_bytes(texts)
        if not len(stops):
            return [np.empty(0, dtype=self._dtype) for _ in texts]
        first, counts, ids = self._ids(data, stops)
        last = np.cumsum(counts)
        tokens = ids[np.repeat(first - (last - counts), counts) + np.arange(last[-1])]
        return np.split(tokens, np.concatenate(([0], last))[ends[:-1]])

    def _ids(self, data: bytes, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each word, where its ids start and how many they are; and all ids."""
        starts = np.concatenate(([0], stops[:-1]))
        words = pack(data, starts, stops)
        places = self._known.find(words)
        first, counts = self._known.spans(places)
        missing = np.flatnonzero(places < 0)
        if not len(missing):
            return first, counts, self._known.ids
        new: dict[bytes, int] = {}
        which = np.array(
            [
                new.setdefault(data[a:b], len(new))
                for a, b in zip(starts[missing].tolist(), stops[missing].tolist(), strict=True)
            ]
        )
        encoded = self._tokenizer.encode_batch([word.decode() for word in new])
        new_counts = np.array([len(ids) for ids in encoded])
        new_ids = np.array([token for ids in encoded for token in ids], dtype=self._dtype)
        old = self._known.ids
        first[missing] = len(old) + (np.cumsum(new_counts) - new_counts)[which]
        counts[missing] = new_counts[which]
        ids = np.concatenate((old, new_ids))
        of_new = missing[np.unique(which, return_index=True)[1]]
        self._known.add(words.some(of_new), new_ids, new_counts)
        return first, counts, ids


def answers(part: Part, eos: str) -> str:
    """What was said in the answers of a conversation, without end-of-text marks."""
    return "".join(part.text[start:stop] for start, stop in part.spans or ()).replace(eos, "")


def encode_conversations(tokenizer: Tokenizer, parts: Sequence[Part]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids of rendered conversations, and which of them are of answers.

    Yields:
        ids: (n,) int64; counts: (n,) uint8, 1 for a token that has a character in a span.
    """
    for start in range(0, len(parts), _CONVERSATIONS):
        some = parts[start : start + _CONVERSATIONS]
        for part, (ids, offsets) in zip(some, tokenizer.encode_rendered([p.text for p in some]), strict=True):
            places = np.array(offsets, dtype=np.int64).reshape(-1, 2)  # (n, 2)
            starts, stops = np.array(part.spans, dtype=np.int64).reshape(-1, 2).T
            # the first span that ends behind a token's start
            which = np.searchsorted(stops, places[:, 0], side="right")
            begins = np.append(starts, np.iinfo(np.int64).max)[which]
            yield np.array(ids, dtype=np.int64), (begins < np.maximum(places[:, 1], places[:, 0] + 1)).astype(np.uint8)

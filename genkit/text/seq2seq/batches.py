"""The pairs of each step."""

from __future__ import annotations

import functools

import numpy as np
from torch import Tensor

from genkit.runtime.seeds import derive_seed
from genkit.text.losses import IGNORE
from genkit.text.seq2seq.data import PairSet, share

_WINDOW = 32  # batches whose pairs are sorted by length together


class Batches:
    """Which pairs each step trains on: a pure function of the seed and the step.

    Every epoch takes each pair once, or as often as its weight says, in an order of its
    own. Of so many batches together the pairs are sorted by length, so that little
    padding is needed, and then the batches are shuffled.
    """

    def __init__(self, pairs: PairSet, *, batch_size: int, seed: int) -> None:
        self._pairs, self._size, self._seed = pairs, batch_size, seed
        self._together = max(1, min(_WINDOW, pairs.pairs_per_epoch // batch_size))
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        self._window = functools.lru_cache(maxsize=2)(self._sorted)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Sources (B, S) and targets (B, T) of a step, as `PairSet.padded`."""
        return self._pairs.padded(self.numbers(step))

    def numbers(self, step: int) -> np.ndarray:
        """(B,) which pairs these are."""
        window, place = divmod(step, self._together)
        numbers: np.ndarray = self._window(window)[place]
        return numbers

    def _sorted(self, window: int) -> np.ndarray:
        """(batches, B) the pairs of some steps."""
        count = self._together * self._size
        numbers = self._stream(window * count, count)
        sources, targets = self._pairs.lengths(numbers)
        batches = numbers[np.lexsort((targets, sources))].reshape(self._together, self._size)
        return self._random(f"window {window}").permutation(batches)

    def _stream(self, start: int, count: int) -> np.ndarray:
        """The pairs at places of the endless row of epochs."""
        epoch_size, found = self._pairs.pairs_per_epoch, []
        while count > 0:
            epoch, place = divmod(start, epoch_size)
            part = self._order(epoch)[place : place + count]
            found.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(found)

    def _shuffled(self, epoch: int) -> np.ndarray:
        parts = []
        for which, (numbers, weight) in enumerate(zip(self._pairs.train, self._pairs.weights, strict=True)):
            count = share(numbers, weight)
            # whole passes over the source, each in an order of its own, of which the epoch takes its part
            first, last = epoch * count // len(numbers), -(-(epoch + 1) * count // len(numbers))
            passes = [
                self._random(f"source {which} pass {number}").permutation(numbers) for number in range(first, last)
            ]
            begin = epoch * count - first * len(numbers)
            parts.append(np.concatenate(passes)[begin : begin + count])
        return self._random(f"epoch {epoch}").permutation(np.concatenate(parts))

    def _random(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(derive_seed(self._seed, name)))


def units(sources: Tensor, targets: Tensor) -> int:
    """Tokens of a batch, padding left out."""
    return int((sources != IGNORE).sum()) + int((targets != IGNORE).sum())

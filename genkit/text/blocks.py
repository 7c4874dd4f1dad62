"""Which stretches of the tokens each step trains on.

A pass over a segment cuts it, as a ring from a random place on, into blocks that do
not overlap, and takes them in random order; the next pass cuts anew. An epoch draws
from each segment as many passes as its weight says, and mixes the segments evenly.
All of it follows from the seed and the step, so that a resumed run goes on as if it
had never been interrupted. Memory: about 16 bytes a block.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.text.losses import IGNORE

_AT_ONCE = 1 << 20  # tokens whose mask is looked at together


class Segment(NamedTuple):
    """Tokens `start:stop`, seen `weight` times an epoch."""

    start: int
    stop: int
    weight: float


class Blocks:
    """The training examples in a row of tokens.

    Args:
        tokens: (n,) token ids.
        segments: what `tokens` consists of; by default one segment of weight 1.
        mask: (n,) whether a token counts as a target; None counts all. At least one
            in each segment does.
    """

    def __init__(self, tokens: np.ndarray, segments: Sequence[Segment] = (), mask: np.ndarray | None = None) -> None:
        self._tokens = tokens
        self._segments = tuple(segments) or (Segment(0, len(tokens), 1.0),)
        self._mask = mask
        self._mixture = functools.lru_cache(maxsize=1)(self._mix)
        self._pass = functools.lru_cache(maxsize=2 * len(self._segments))(self._cut)

    def batch(self, *, block_size: int, batch_size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """The examples of one step: a pure function of `seed` and `step`.

        A block without any target that counts gives its place to another one of its pass.

        Returns:
            x, y: (batch_size, block_size) int64; y is x one token later, and -100
            where the loss does not count.

        Raises:
            InputError: fewer than `block_size + 1` tokens.
        """
        if (count := len(self._tokens)) <= block_size:
            raise InputError(
                f"the training text has {count} tokens, too few for a context of {block_size}",
                f"use --block-size {count - 1} or less, or more text" if count > 8 else "give more text",
            )
        shares = self._shares(block_size)
        places = np.empty((batch_size, block_size + 1), dtype=np.int64)
        for row, index in enumerate(range(step * batch_size, (step + 1) * batch_size)):
            epoch, place = divmod(index, sum(shares))
            which, rank = self._drawn(shares, seed, epoch, place)
            start, stop, _ = self._segments[which]
            number, place = divmod(epoch * shares[which] + rank, _blocks(stop - start, block_size))
            first, order = self._pass(which, block_size, seed, number)
            block = first + int(order[place]) * block_size
            places[row] = start + (block + np.arange(block_size + 1)) % (stop - start)
        ids = torch.from_numpy(np.asarray(self._tokens[places], dtype=np.int64))  # (B, T + 1)
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        if self._mask is not None:
            y[torch.from_numpy(np.asarray(self._mask[places[:, 1:]] == 0))] = IGNORE
        return x, y

    def per_epoch(self, block_size: int) -> int:
        """Blocks in an epoch, weights counted."""
        return sum(self._shares(block_size))

    def _shares(self, block_size: int) -> tuple[int, ...]:
        return tuple(_blocks(stop - start, block_size, weight) for start, stop, weight in self._segments)

    def _drawn(self, shares: tuple[int, ...], seed: int, epoch: int, place: int) -> tuple[int, int]:
        """The segment at a place of an epoch, and how many of its blocks come before."""
        if len(shares) == 1:
            return 0, place
        segments, ranks = self._mixture(shares, seed, epoch)
        return int(segments[place]), int(ranks[place])

    def _mix(self, shares: tuple[int, ...], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        segments = np.repeat(np.arange(len(shares), dtype=np.uint16), shares)
        _random(seed, epoch, mixing=1).shuffle(segments)
        ranks = np.empty(len(segments), dtype=np.int64)
        for segment, share in enumerate(shares):
            ranks[segments == segment] = np.arange(share)
        return segments, ranks

    def _cut(self, which: int, block_size: int, seed: int, number: int) -> tuple[int, np.ndarray]:
        """Where the first block of a pass starts in its segment, and the order of the blocks."""
        start, stop, _ = self._segments[which]
        rng = _random(seed, number, segment=which)
        first, order = int(rng.integers(stop - start)), rng.permutation(_blocks(stop - start, block_size))
        if self._mask is None:
            return first, order
        mask = self._mask[start:stop]
        counts = _counting(mask, first, block_size, len(order))
        if not counts.any():
            first = int(mask.argmax()) - 1
            counts = _counting(mask, first, block_size, len(order))
        useful = counts[order]
        order[~useful] = np.resize(order[useful], len(order) - useful.sum())
        return first, order


def _blocks(tokens: int, block_size: int, weight: float = 1.0) -> int:
    return max(1, int(weight * tokens / block_size))


def _random(seed: int, number: int, *, segment: int = 0, mixing: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, mixing, segment]))


def _counting(mask: np.ndarray, first: int, block_size: int, blocks: int) -> np.ndarray:
    """(blocks,) whether a block from `first` on has a target that counts."""
    found = np.empty(blocks, dtype=bool)
    some = max(1, _AT_ONCE // block_size)
    for block in range(0, blocks, some):
        stop = min(block + some, blocks)
        targets = np.arange(first + 1 + block * block_size, first + 1 + stop * block_size)
        found[block:stop] = mask.take(targets, mode="wrap").reshape(-1, block_size).any(axis=1)
    return found

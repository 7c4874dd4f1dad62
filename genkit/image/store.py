"""Decoded images on disk, and the batches that training reads from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genkit.image.noise import FLIP, ORDER, philox
from genkit.image.report import ImageReport


@dataclass(frozen=True)
class ImageStore:
    """Training images, and what is known of them.

    Attributes:
        images: uint8 (N, H, W, C), read from the disk as needed.
        labels: int64 (N,), places in `classes`; None when there are no classes.
        held_out: images of the same kind that training never sees; None when there are none.
    """

    images: NDArray[np.uint8]
    report: ImageReport
    labels: NDArray[np.int64] | None = None
    held_out: ImageStore | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty without."""
        return self.report.classes

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, *, batch_size: int, seed: int, step: int, flip: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """What a step sees, as a pure function of (seed, step).

        Steps walk through one endless stream of shuffled epochs, so every image is
        seen once an epoch and a set smaller than the batch repeats within it.

        Args:
            flip: mirror half of the images.

        Returns:
            pixels uint8 (batch_size, H, W, C) and labels int64 (batch_size,), None without classes.
        """
        n = len(self.images)
        first = step * batch_size
        places = np.arange(first, first + batch_size)
        chosen = np.concatenate(
            [
                epoch_order(n, seed, epoch)[places[places // n == epoch] - epoch * n]
                for epoch in range(first // n, (first + batch_size - 1) // n + 1)
            ]
        )
        pixels: NDArray[np.uint8] = self.images[chosen]
        if flip:
            mirrored = philox(seed, FLIP, step).random(batch_size) < 0.5
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        return pixels, None if self.labels is None else self.labels[chosen]


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order (n,) in which an epoch shows its images."""
    return philox(seed, ORDER, epoch).permutation(n)

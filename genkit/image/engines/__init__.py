"""What an image engine is: `generate(requests)` yields one `ImageEvent` a request, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageRequest:
    """Draw the picture of a latent.

    Attributes:
        seed: where the latent comes from, None if from no seed; engines hand it on
            and draw from `z` and `label` alone.
        z: the latent, float32 (nz,).
        label: which of the model's classes; None where it has none.
    """

    seed: int | None
    z: NDArray[np.float32]
    label: int | None = None


@dataclass(frozen=True)
class ImageEvent:
    """A finished picture.

    Attributes:
        index: position of its request.
        seed: the request's seed.
        pixels: uint8 (H, W, C).
        z: the latent that it was drawn from, float32 (nz,).
        label: the class that it was drawn from; None where the model has none.
    """

    index: int
    seed: int | None
    pixels: NDArray[np.uint8]
    z: NDArray[np.float32]
    label: int | None = None


class ImageEngine(Protocol):
    """Draws requests in batches of its own choosing."""

    def generate(self, requests: Iterable[ImageRequest]) -> Iterator[ImageEvent]: ...

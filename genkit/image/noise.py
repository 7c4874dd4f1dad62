"""Randomness as pure functions of (seed, stream, step), from NumPy's Philox.

Philox is counter-based: a key and a counter name a position directly. A draw therefore
depends on nothing drawn before it, on no device and on no batch, and a resumed run has
no generator to put back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genkit.errors import UsageError
from genkit.image.config import MIN_TRUNCATION

# Streams of one seed; a picture and a training batch never share one.
PICTURE, ORDER, FLIP, LATENT, STATISTICS, LABEL, JUDGED, HELD_OUT = range(8)


def philox(seed: int, stream: int, step: int = 0) -> np.random.Generator:
    """The generator of `stream` at `step`; each step has 2**192 blocks to itself."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, 0, step], dtype=np.uint64)  # the last word is the highest
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def latents(seed: int, nz: int, truncation: float | None = None) -> NDArray[np.float32]:
    """The latent vector (nz,) of the picture with this seed, standard normal.

    Args:
        truncation: values beyond +-truncation are drawn again, further along the same
            stream, until none is (Brock et al., arXiv 1809.11096); the others stay.

    Raises:
        UsageError: a truncation so small that hardly a value would pass.
    """
    if truncation is not None and not truncation >= MIN_TRUNCATION:
        raise UsageError(f"truncation {truncation} is below {MIN_TRUNCATION}", "1 is a common one")
    stream = philox(seed, PICTURE)
    z = stream.standard_normal(nz, dtype=np.float32)
    if truncation is not None:
        while (beyond := np.abs(z) > truncation).any():
            z[beyond] = stream.standard_normal(np.count_nonzero(beyond), dtype=np.float32)
    return z


def batch_latents(seed: int, step: int, n: int, nz: int, stream: int = LATENT) -> NDArray[np.float32]:
    """The latents (n, nz) of a training step."""
    return philox(seed, stream, step).standard_normal((n, nz), dtype=np.float32)


def seeded_latents(seeds: Sequence[int], nz: int, truncation: float | None = None) -> NDArray[np.float32]:
    """Latents (N, nz), row i from seed i alone."""
    return np.stack([latents(seed, nz, truncation) for seed in seeds])

"""A walk through latent space: the frames between the pictures of a few seeds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def slerp(a: NDArray[np.float32], b: NDArray[np.float32], t: float) -> NDArray[np.float32]:
    """Spherical interpolation (White, arXiv 1609.04468) from a (nz,) at t=0 to b at t=1.

    Normal vectors of many dimensions lie near a sphere. Straight between two of them
    the generator meets vectors that are too short, which it never saw in training.
    Parallel and opposite vectors span no arc; between them the way is straight.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    angle = np.arccos(np.clip(x @ y / lengths, -1, 1)) if lengths > 0 else 0.0
    if (sine := np.sin(angle)) < 1e-6:
        return ((1 - t) * x + t * y).astype(np.float32)
    between: NDArray[np.float64] = np.sin((1 - t) * angle) / sine * x + np.sin(t * angle) / sine * y
    return between.astype(np.float32)


def positions(stops: int, frames: int, *, loop: bool) -> Iterator[tuple[int, float]]:
    """Where each frame stands: (k, t), t of the way from stop k to the next one.

    The frames are evenly spaced. With `loop` the last stop leads back to the first,
    and the frame after the last would be the first; without, frame 0 is the first
    stop and the last frame the last stop.
    """
    legs, steps = (stops, frames) if loop else (stops - 1, frames - 1)
    for frame in range(frames):
        leg, rest = divmod(frame * legs, steps) if steps else (0, 0)
        yield leg, rest / steps if rest else 0.0


def walk(stops: NDArray[np.float32], frames: int, *, loop: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The frames of a walk from latent to latent.

    Args:
        stops: latents (K, nz), K >= 2; a frame that falls on one is that latent, bit for bit.

    Yields:
        the last stop that was passed, and the latent (nz,) of the frame.
    """
    for stop, t in positions(len(stops), frames, loop=loop):
        yield stop, stops[stop] if t == 0 else slerp(stops[stop], stops[(stop + 1) % len(stops)], t)

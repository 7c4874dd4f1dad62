"""Whether a set tells left from right, so that mirror images do not belong to it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from genkit.image.noise import ORDER, philox

_IMAGES, _SIDE = 2000, 16  # as many and as small images say it
_BATCH = 64  # of them are in memory at a time
_MARGIN, _DEVIATIONS = 0.15, 4.0  # above one half, that are no accident
_RIDGE = 0.1


def is_handed(images: NDArray[np.uint8]) -> bool:
    """Whether images (N, H, W, C) are told from their mirror images, as letters and digits are.

    A linear classifier learns it from half of the images and is tested on the others,
    and the other way round. It is right half of the time on faces or landscapes, and
    clearly more often on writing, or where all shoes point left and all light comes
    from one side: there, mirroring would teach the generator what the data never show.
    """
    limit = 0.5 + max(_MARGIN, _DEVIATIONS * 0.5 / math.sqrt(min(len(images), _IMAGES)))
    small = _shrunk(images)
    return any(_accuracy(odd) > limit for odd in (_odd_pixels(small), _odd_strokes(small)))


def _shrunk(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Some of the images (n, 16, 16, C), evenly spread over the set."""
    places = np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(np.int64)
    _, side, _, channels = images.shape
    factor = side // _SIDE
    small = np.empty((len(places), _SIDE, _SIDE, channels), np.float32)
    for low in range(0, len(places), _BATCH):
        part = images[places[low : low + _BATCH]]
        squares = part.reshape(len(part), _SIDE, factor, _SIDE, factor, channels)
        small[low : low + len(part)] = squares.mean((2, 4), dtype=np.float32)
    return small


def _odd_pixels(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (N, H, W, C) less their mirror images: features (N, D) that mirroring negates."""
    return (images - images[:, :, ::-1]).reshape(len(images), -1)


def _odd_strokes(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (N, D) that mirroring negates, and that black on white and white on black share.

    The product of the two gradients is positive on strokes that fall to the right and
    negative on those that fall to the left, whatever their colour.
    """
    grey = images.mean(3)
    top_left, top_right = grey[:, :-1, :-1], grey[:, :-1, 1:]
    low_left, low_right = grey[:, 1:, :-1], grey[:, 1:, 1:]
    slant = (top_right + low_right - top_left - low_left) * (low_left + low_right - top_left - top_right)
    slant /= np.abs(slant).mean((1, 2), keepdims=True) + 1e-6  # an image counts as another, whatever its contrast
    odd: NDArray[np.float32] = slant + slant[:, :, ::-1]
    return odd.reshape(len(odd), -1)


def _accuracy(odd: NDArray[np.float32]) -> float:
    """How often ridge regression on odd features (N, D) tells an image from its mirror image; twofold.

    As mirroring negates the features, `odd @ w > 0` decides, and the means of the two
    sides are `odd.mean(0)` and its negative.
    """
    n, features = odd.shape
    halves = np.array_split(philox(0, ORDER).permutation(n), 2)
    right = 0.0
    for seen, unseen in (halves, halves[::-1]):
        covariance = (odd[seen].T @ odd[seen]).astype(np.float64)
        ridge = _RIDGE * np.trace(covariance) / features + 1e-9
        w = np.linalg.solve(covariance + ridge * np.eye(features), odd[seen].sum(0).astype(np.float64))
        verdict = odd[unseen] @ w
        right += (verdict > 0).sum() + 0.5 * (verdict == 0).sum()  # a symmetric image says nothing
    return float(right / n)

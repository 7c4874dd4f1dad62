"""How far two sets of images are apart, by their pixels or their features. Pure functions of arrays.

Features are (N, D) rows of any network; pixels are uint8 (N, H, W, C). Everything is
computed in float64 but the sliced Wasserstein distance, whose patches are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

_ROWS = 1024  # of a set that are compared at a time
_IMAGES = 64  # that are scaled at a time
_SIDE = 32  # pixels of a thumbnail
_COARSEST, _PATCH, _PATCHES, _DIRECTIONS = 16, 7, 32, 128
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_CANCELLED = 1e-13  # share of |x|^2 + |y|^2 below which |x - y|^2 is rounding


def frechet_distance(a: Features, b: Features) -> float:
    """Distance of the normal distributions fitted to two sets (Dowson and Landau 1982; Heusel et al. 2017).

    |mean_a - mean_b|^2 + tr(A'A + B'B - 2 (A'A B'B)^(1/2)) where A'A and B'B are the
    covariances. The last trace is the sum of the singular values of A B', which needs no
    root of a matrix: it is real and exact for singular covariances too, so with fewer
    rows than dimensions. The estimate is biased upwards then, and always somewhat: what
    two sets of one distribution give is not 0, and only sets of equal sizes compare.

    Args:
        a, b: (N, D) and (M, D), two rows or more each.

    Returns:
        the squared distance, as is the custom; not below 0.
    """
    (mean_a, root_a), (mean_b, root_b) = _normal(a), _normal(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * shared
    return float(np.square(mean_a - mean_b).sum() + max(spread, 0.0))


def _normal(rows: Features) -> tuple[Floats, Floats]:
    """Mean (D,) and a root R (K, D) of the unbiased covariance R'R, K <= N and K <= D."""
    _need(rows, 2)
    x = np.asarray(rows, np.float64)
    mean = x.mean(0)
    root: Floats = (x - mean) / np.sqrt(len(x) - 1)
    if len(x) > x.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"))
    return mean, root


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3 (Binkowski et al. 2018).

    Over whole sets, not subsets of them. Its expectation is 0 for two sets of one
    distribution, whatever their sizes, so it can be a little below 0.

    Args:
        a, b: (N, D) and (M, D), two rows or more each.
    """
    _need(a, 2)
    _need(b, 2)
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return _kernel_mean(x, x) + _kernel_mean(y, y) - 2 * _kernel_mean(x, y)


def _kernel_mean(x: Floats, y: Floats) -> float:
    """Mean of the kernel over all pairs; of a set with itself: over pairs of different rows."""
    width = x.shape[1]
    total = 0.0
    for _, rows in _chunks(x):
        product = rows @ y.T / width + 1
        total += float((product * product * product).sum())
    if x is not y:
        return total / (len(x) * len(y))
    own = np.square(x).sum(1) / width + 1
    return (total - float((own**3).sum())) / (len(x) * (len(x) - 1))


def precision_recall(real: Features, fake: Features, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

    Precision: the share of `fake` within the reach of a real row, which is its distance
    to the `k`-th nearest other real one. Recall: the same with the sets exchanged.

    Args:
        real, fake: (N, D) and (M, D), each with more than `k` rows.
    """
    _need(real, k + 1)
    _need(fake, k + 1)
    centre = np.asarray(real, np.float64).mean(0)  # less of a distance cancels about the middle
    x, y = real - centre, fake - centre
    return _covered(y, x, k), _covered(x, y, k)


def _covered(rows: Floats, by: Floats, k: int) -> float:
    """Share of `rows` within the reach of a row of `by`."""
    reach = np.concatenate([np.partition(_squares(part, by), k, axis=1)[:, k] for _, part in _chunks(by)])
    return float(np.concatenate([(_squares(part, by) <= reach).any(1) for _, part in _chunks(rows)]).mean())


def nearest_distance(
    a: NDArray[Any], b: NDArray[Any], *, own: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.float64]:
    """Euclidean distance (N,) from each row of `a` to the nearest row of `b`; exactly 0 for a copy.

    Args:
        a, b: (N, ...) and (M, ...), of pixels or features.
        own: (N,) where the rows of `a` stand in `b`, if they do: an image is not its own neighbour.
    """
    _need(b, 1 if own is None else 2)
    x, y = a.reshape(len(a), -1), b.reshape(len(b), -1)
    centre = y.mean(0, dtype=np.float64)
    best = np.full(len(x), np.inf)
    place = np.zeros(len(x), np.int64)
    for low, others in _chunks(y):
        for first, rows in _chunks(x):
            squares = _squares(rows - centre, others - centre)
            if own is not None:
                mine = own[first : first + len(rows)] - low
                inside = np.flatnonzero((mine >= 0) & (mine < len(others)))
                squares[inside, mine[inside]] = np.inf
            nearest = squares.argmin(1)
            found = squares[np.arange(len(rows)), nearest]
            here = slice(first, first + len(rows))
            place[here] = np.where(found < best[here], nearest + low, place[here])
            best[here] = np.minimum(best[here], found)
    # what was found by |x|^2 + |y|^2 - 2 x.y is measured again by the difference, which does not cancel
    exact = [np.square(rows - y[place[first : first + len(rows)]]).sum(1) for first, rows in _chunks(x)]
    return np.sqrt(np.concatenate(exact)) if exact else best


def thumbnails(pixels: Pixels) -> Floats:
    """Images (N, H, W, C) as values from 0 to 1 and at most 32 pixels a side, by the means of squares.

    Args:
        pixels: H and W equal, a power of two if above 32.
    """
    n, side, _, channels = pixels.shape
    factor = max(1, side // _SIDE)
    small = np.empty((n, side // factor, side // factor, channels))
    for low in range(0, n, _IMAGES):
        images = pixels[low : low + _IMAGES]
        squares = images.reshape(len(images), side // factor, factor, side // factor, factor, channels)
        small[low : low + len(images)] = squares.mean((2, 4)) / 255
    return small


def diversity(pixels: Pixels) -> float:
    """Root mean square difference of two different images, over pairs, pixels and channels of their thumbnails.

    0 for copies of one image; sqrt(1/6) = 0.41 for thumbnails of uniform noise at 32
    pixels. It says something beside that of the data alone: a part of it is a collapse.

    Args:
        pixels: (N, H, W, C), two images or more.
    """
    _need(pixels, 2)
    return float(np.sqrt(2 * thumbnails(pixels).var(0, ddof=1).mean()))


def sliced_wasserstein(a_pixels: Pixels, b_pixels: Pixels, seed: int = 0) -> float:
    """Sliced Wasserstein distance of 7x7 patches, mean over the levels of Laplacian pyramids (Karras et al. 2018).

    The levels go from the images' size down to 16 pixels; 32 patches an image and level,
    128 directions. Patches are measured in the standard deviations of the channels of
    `b_pixels`, the reference, or in grey levels where these are larger. The paper
    normalises each set by itself, and so does not see a wrong brightness or contrast.
    Of the larger set as many images are drawn as the smaller has. 0 for the same images;
    not for two sets of one distribution, so compare with what two sets of real images give.

    Args:
        a_pixels, b_pixels: (N, S, S, C) and (M, S, S, C), S a power of two from 16 on.
        seed: of the patches, directions and drawn images.
    """
    _need(a_pixels, 1)
    _need(b_pixels, 1)
    rng = np.random.default_rng(seed)
    n = min(len(a_pixels), len(b_pixels))
    # in order where nothing is left out, so that a set is at no distance from itself
    a, b = (x if len(x) == n else x[np.sort(rng.permutation(len(x))[:n])] for x in (a_pixels, b_pixels))
    side = a.shape[1]
    sizes = [side >> level for level in range(max(1, (side // _COARSEST).bit_length()))]
    corners = [rng.integers(0, size - _PATCH + 1, (2, n, _PATCHES)) for size in sizes]
    levels = zip(_patches(a, corners), _patches(b, corners), strict=True)
    return float(np.mean([_sliced(x, y, rng) for x, y in levels]))


def _sliced(a: NDArray[np.float32], b: NDArray[np.float32], rng: np.random.Generator) -> float:
    """Mean Wasserstein-1 distance of patches (K, 7, 7, C) along random directions."""
    spread = b.std((0, 1, 2))
    directions = rng.standard_normal((*a.shape[1:], _DIRECTIONS)).astype(np.float32)
    directions /= np.sqrt(np.square(directions).sum((0, 1, 2)))
    directions /= np.maximum(spread, 1 / 255)[:, None]  # instead of the patches, which are more
    lines = [np.sort(np.tensordot(directions, x, ((0, 1, 2), (1, 2, 3))), axis=1) for x in (a, b)]  # (directions, K)
    return float(np.abs(lines[0] - lines[1]).mean(dtype=np.float64))


def _patches(pixels: Pixels, corners: list[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Of each level of the images' pyramids the patches (N * 32, 7, 7, C) with these corners (2, N, 32)."""
    n, _, _, channels = pixels.shape
    found = [np.empty((n, _PATCHES, _PATCH, _PATCH, channels), np.float32) for _ in corners]
    for first in range(0, n, _IMAGES):
        here = slice(first, first + _IMAGES)
        for places, into, level in zip(corners, found, pyramid(pixels[here], len(corners)), strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(level, (_PATCH, _PATCH), (1, 2))
            rows, columns = places[:, here]
            chosen = windows[np.arange(len(level))[:, None], rows, columns]  # (n, 32, C, 7, 7)
            into[here] = chosen.transpose(0, 1, 3, 4, 2)
    return [x.reshape(-1, _PATCH, _PATCH, channels) for x in found]


def pyramid(pixels: Pixels, levels: int) -> Iterator[NDArray[np.float32]]:
    """The levels of the images' Laplacian pyramid, from fine to coarse (Burt and Adelson 1983).

    Each is what the next coarser image, made by a binomial filter and scaled up again,
    has not; the last is the coarsest image itself. They add up to the images.

    Yields:
        (N, H / 2^level, W / 2^level, C), values of 0 to 1 before differences are taken.
    """
    image: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(255)
    for _ in range(levels - 1):
        coarser = _halve(_halve(image, 1), 2)
        yield image - _double(_double(coarser, 1), 2)
        image = coarser
    yield image


def _halve(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Every second value along an axis of the smoothed array; the border is mirrored."""
    size = x.shape[axis]
    padded = np.pad(x, [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)], mode="reflect")
    smoothed = np.zeros_like(_along(x, axis, 0, size, 2))
    for tap, weight in enumerate(_BINOMIAL):
        smoothed += weight * _along(padded, axis, tap, tap + size, 2)
    return smoothed


def _double(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Twice as many values along an axis: the same filter over the values with zeros between, times 2."""
    size = x.shape[axis]
    left, right = (_along(x, axis, place, place + 1) for place in (1, size - 1))
    padded = np.concatenate([left, x, right], axis)  # the mirrored border, as `_halve` sees it
    shape = list(x.shape)
    shape[axis] = 2 * size
    doubled = np.empty(shape, x.dtype)
    before, at, after = (_along(padded, axis, tap, tap + size) for tap in range(3))
    _along(doubled, axis, 0, 2 * size, 2)[:] = (before + 6 * at + after) / 8
    _along(doubled, axis, 1, 2 * size, 2)[:] = (at + after) / 2
    return doubled


def _along(x: NDArray[np.float32], axis: int, first: int, stop: int, step: int = 1) -> NDArray[np.float32]:
    return x[(slice(None),) * axis + (slice(first, stop, step),)]


def _squares(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Squared distances (N, M) of rows."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    both = np.square(x).sum(1)[:, None] + np.square(y).sum(1)
    squares: Floats = both - 2 * (x @ y.T)
    squares[squares <= _CANCELLED * both] = 0
    return squares


def _chunks(rows: NDArray[Any]) -> Iterator[tuple[int, Floats]]:
    """Where each begins, and some rows as float64, so that a large set of bytes never is all of it."""
    for low in range(0, len(rows), _ROWS):
        yield low, np.asarray(rows[low : low + _ROWS], np.float64)


def _need(rows: NDArray[Any], least: int) -> None:
    if len(rows) < least:
        raise ValueError(f"{len(rows)} rows where {least} or more are needed")

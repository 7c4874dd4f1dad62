"""Distances of sets of images against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genkit.image import metrics
from genkit.image.metrics import (
    diversity,
    frechet_distance,
    kernel_distance,
    nearest_distance,
    precision_recall,
    pyramid,
    sliced_wasserstein,
    thumbnails,
)


def noise(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *shape))


def images(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Uniform noise, uint8 (n, size, size, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def squares(n: int, size: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Bright squares at random places on a dark ground: they have structure at all scales."""
    rng = np.random.default_rng(seed)
    drawn = np.full((n, size, size, channels), 40, np.uint8)
    for image, (top, left) in zip(drawn, rng.integers(0, size // 2, (n, 2)), strict=True):
        image[top : top + size // 2, left : left + size // 2] = rng.integers(100, 256, channels)
    return drawn


def whitened(x: np.ndarray) -> np.ndarray:
    """Rows with a mean of exactly 0 and the identity as their unbiased covariance."""
    centred = x - x.mean(0)
    return np.linalg.qr(centred)[0] * math.sqrt(len(x) - 1)


def test_frechet_distance_of_normal_distributions() -> None:
    """|m|^2 + tr(A + B - 2 (AB)^(1/2)), for covariances that commute: the squared differences of the deviations."""
    a, b = whitened(noise(200, 5)), whitened(noise(300, 5, seed=1))
    spread_a, spread_b, shift = np.array([1, 2, 3, 4, 5.0]), np.array([2, 2, 1, 0.5, 0]), np.array([3, 0, 4, 0, 0.0])
    expected = 25 + ((spread_a - spread_b) ** 2).sum()
    assert frechet_distance(a * spread_a, b * spread_b + shift) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, a + 2) == pytest.approx(5 * 4, rel=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    a, b = noise(50, 4) @ noise(4, 4, seed=1), noise(60, 4, seed=2) @ noise(4, 4, seed=3)
    product = np.cov(a.T) @ np.cov(b.T)
    trace = np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * np.sqrt(np.linalg.eigvals(product).real).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_fewer_rows_than_dimensions() -> None:
    """Two points span a line each; across and along these the closed form is known."""
    along = np.array([[1, 0, 0, 0], [-1, 0, 0, 0.0]])  # variance 2
    assert frechet_distance(along, 3 * along) == pytest.approx((3 - 1) ** 2 * 2)
    across = np.array([[0, 1, 0, 0], [0, -1, 0, 0.0]])
    assert frechet_distance(along, across) == pytest.approx(2 + 2)  # nothing shared
    few = noise(10, 50)
    assert 0 <= frechet_distance(few, few) < 1e-10
    assert frechet_distance(few, few[::-1] + 1) == pytest.approx(50)


def test_kernel_distance_by_hand() -> None:
    """D = 1: k(x, y) = (xy + 1)^3."""
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0], [-1.0]])
    aa = 1.0  # k(0, 1)
    bb = (3**3 + 0**3 + (-1) ** 3) / 3  # 1*2, 1*-1, 2*-1
    ab = ((1 + 1 + 1) + (2**3 + 3**3 + 0**3)) / 6
    assert kernel_distance(a, b) == pytest.approx(aa + bb - 2 * ab)
    assert kernel_distance(b, a) == pytest.approx(aa + bb - 2 * ab)


def test_kernel_distance_is_unbiased() -> None:
    """Over many pairs of small sets of one distribution it is 0 on average; its biased form is far from that."""
    found = [kernel_distance(noise(8, 3, seed=2 * i), noise(6, 3, seed=2 * i + 1)) for i in range(2000)]
    assert min(found) < 0
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(len(found))
    assert np.std(found) / math.sqrt(len(found)) < 0.05


def test_kernel_distance_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = noise(25, 6), noise(18, 6, seed=1) + 0.5
    whole = kernel_distance(a, b)
    monkeypatch.setattr(metrics, "_ROWS", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_precision_and_recall_by_hand() -> None:
    """On a line, k = 1: each point reaches as far as its nearest neighbour."""
    real = np.array([[0.0], [1.0], [10.0], [11.0]])
    fake = np.array([[0.5], [0.6], [5.0], [5.1]])
    assert precision_recall(real, fake, k=1) == (0.5, 0.0)  # 0.5 and 0.6 lie within 1 of 0; fakes reach 0.1
    assert precision_recall(fake, real, k=1) == (0.0, 0.5)
    assert precision_recall(real, fake, k=3) == (1.0, 0.5)  # the fakes reach 4.6, 4.5, 4.5 and 4.6, so up to 9.7


def test_precision_and_recall_of_a_part_and_of_elsewhere() -> None:
    real = noise(400, 4)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real[0] + 1e-3 * noise(40, 4)) == (1.0, 1 / 400)  # one image, again and again
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    same = np.full((9, 4), 1 / 3)  # no reach at all, and no distance either
    assert precision_recall(same, same[:5]) == (1.0, 1.0)


def test_nearest_distance_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(20, 8), images(33, 8, seed=1)
    expected = [min(math.dist(x.ravel(), y.ravel()) for y in b.astype(int)) for x in a.astype(int)]
    monkeypatch.setattr(metrics, "_ROWS", 7)
    np.testing.assert_allclose(nearest_distance(a, b), expected, rtol=1e-14)
    b[30] = a[4]
    assert nearest_distance(a, b)[4] == 0
    far = noise(12, 3) + 1e6  # |x|^2 + |y|^2 - 2 x.y would have lost everything
    assert nearest_distance(far, far[::-1] + 1e-3) == pytest.approx(math.sqrt(3) * 1e-3, rel=1e-5)


def test_an_image_is_not_its_own_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ROWS", 2)
    line = np.array([[0.0], [1.0], [3.0], [7.0], [7.0]])
    own = np.array([4, 0, 2, 3])
    np.testing.assert_array_equal(nearest_distance(line[own], line, own=own), [0, 1, 2, 0])
    np.testing.assert_array_equal(nearest_distance(line[own], line), [0, 0, 0, 0])


def test_thumbnails_are_means() -> None:
    pixels = images(3, 64, 1)
    small = thumbnails(pixels)
    assert small.shape == (3, 32, 32, 1)
    assert small[1, 5, 7, 0] == pytest.approx(pixels[1, 10:12, 14:16, 0].mean() / 255)
    np.testing.assert_array_equal(thumbnails(pixels[:, :32, :32]), pixels[:, :32, :32] / 255)


def test_diversity_of_two_and_of_pairs() -> None:
    black, white = np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32, 3), 255, np.uint8)
    assert diversity(np.concatenate([black, white])) == pytest.approx(1)
    pixels = images(12, 32, 4)
    pairs = [((x - y) ** 2).mean() for i, x in enumerate(pixels / 255) for y in pixels[:i] / 255]
    assert diversity(pixels) == pytest.approx(math.sqrt(np.mean(pairs)))
    assert diversity(images(200)) == pytest.approx(math.sqrt(1 / 6), rel=0.01)
    assert diversity(np.repeat(pixels[:1], 5, 0)) < 1e-15


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_pyramid_adds_up_to_the_image_and_its_levels_are_bands(size: int) -> None:
    levels = list(pyramid(np.full((2, size, size, 1), 51, np.uint8), 3))
    assert [level.shape[1] for level in levels] == [size, size // 2, size // 4]
    assert np.abs(levels[0]).max() < 1e-6  # nothing but the mean, to the very border
    assert np.abs(levels[1]).max() < 1e-6
    np.testing.assert_allclose(levels[2], 0.2, atol=1e-6)
    pixels = images(2, size, 3)
    rebuilt = None
    for level in reversed(list(pyramid(pixels, 3))):
        rebuilt = level if rebuilt is None else level + metrics._double(metrics._double(rebuilt, 1), 2)
    np.testing.assert_allclose(rebuilt, pixels / 255, atol=1e-5)


def test_a_pyramid_is_antialiased() -> None:
    """The finest stripes leave nothing in the coarser levels, where picking pixels would make them flat or loud."""
    stripes = np.zeros((1, 32, 32, 1), np.uint8)
    stripes[:, :, ::2] = 255
    _, coarse = pyramid(stripes, 2)
    np.testing.assert_allclose(coarse, 0.5, atol=1e-5)


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 1), (64, 3), (32, 4), (128, 3)])
def test_sliced_wasserstein_is_zero_for_itself_and_grows_with_the_difference(size: int, channels: int) -> None:
    data = squares(80, size, channels)
    assert sliced_wasserstein(data, data) == 0
    floor = sliced_wasserstein(squares(80, size, channels, seed=1), data)
    faint = (squares(80, size, channels, seed=1) * 0.7).astype(np.uint8)
    assert 0 < floor < sliced_wasserstein(faint, data) < sliced_wasserstein(images(80, size, channels), data)


def test_sliced_wasserstein_of_flat_images_is_their_difference() -> None:
    """Only the coarsest of two levels differs, by 102 grey levels in every pixel, along unit directions of 49 numbers.

    A direction sees 102 times the sum of its numbers, which is normal with a variance of 1, so its
    mean size is sqrt(2 / pi); the reference has no deviation, so it is measured in grey levels.
    """
    dark, light = np.full((4, 32, 32, 1), 51, np.uint8), np.full((4, 32, 32, 1), 153, np.uint8)
    found = [sliced_wasserstein(light, dark, seed) for seed in range(20)]
    assert np.mean(found) == pytest.approx(102 * math.sqrt(2 / math.pi) / 2, rel=0.05)


def test_sliced_wasserstein_is_decided_by_its_seed() -> None:
    a, b = squares(30), squares(50, seed=1)
    assert sliced_wasserstein(a, b, 3) == sliced_wasserstein(a, b, 3)
    assert sliced_wasserstein(a, b, 3) != sliced_wasserstein(a, b, 4)
    assert sliced_wasserstein(b, a, 3) > 0  # 30 of the 50 are drawn


@pytest.mark.parametrize("function", [frechet_distance, kernel_distance, precision_recall])
def test_one_row_is_no_distribution(function: object) -> None:
    with pytest.raises(ValueError, match=r"1 rows where \d or more are needed"):
        function(noise(1, 4), noise(9, 4))  # type: ignore[operator]


def test_the_distances_are_those_of_torch_fidelity() -> None:
    """On its features they are FID, KID (of one subset, which is the whole set), precision and recall."""
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    from torch import from_numpy
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    fake, real = noise(120, 16) @ noise(16, 16, seed=1) + 0.3, noise(120, 16, seed=2) @ noise(16, 16, seed=3)
    statistics = (fid.fid_features_to_statistics(from_numpy(x)) for x in (fake, real))
    found = fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_distance(fake, real) == pytest.approx(found["frechet_inception_distance"], rel=1e-9)
    a, b = from_numpy(fake), from_numpy(real)
    found = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=120, verbose=False)
    assert kernel_distance(fake, real) == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-9)
    found = prc_features_to_metric(a, b, verbose=False)
    assert precision_recall(real, fake) == pytest.approx((found["precision"], found["recall"]))

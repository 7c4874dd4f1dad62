"""A seed is a picture, on every machine and in every batch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genkit.errors import UsageError
from genkit.image.noise import FLIP, LATENT, ORDER, PICTURE, batch_latents, latents, philox, seeded_latents

EXPECTED_0 = [0.059911035001277924, 0.015559634193778038, -1.1644384860992432, -0.13264712691307068]
EXPECTED_BIG = [-0.31517744064331055, -1.2240153551101685, 1.5435885190963745, 0.5087817907333374]


def test_latents_are_fixed_for_all_time() -> None:
    """Numbers written down once: were they to change, every stored seed would draw another picture."""
    np.testing.assert_array_equal(latents(0, 4), np.array(EXPECTED_0, np.float32))
    np.testing.assert_array_equal(latents(2**63 + 7, 4), np.array(EXPECTED_BIG, np.float32))


def test_latents_depend_on_their_own_seed_alone() -> None:
    together = seeded_latents([5, 9, 5], 100)
    np.testing.assert_array_equal(together[0], together[2])
    np.testing.assert_array_equal(together[1], latents(9, 100))
    assert not np.array_equal(together[0], together[1])
    # a longer vector begins with the shorter one
    np.testing.assert_array_equal(latents(5, 8), latents(5, 100)[:8])


def test_latents_are_standard_normal() -> None:
    values = seeded_latents(list(range(2000)), 100)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    # neighbouring seeds have nothing in common
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("stream", [PICTURE, ORDER, FLIP, LATENT])
def test_steps_and_streams_are_apart(stream: int) -> None:
    draws = {
        tuple(philox(seed, s, step).integers(0, 2**63, 4))
        for seed in (0, 1)
        for s in (PICTURE, ORDER, FLIP, LATENT)
        for step in (0, 1, 2**40)
    }
    assert len(draws) == 2 * 4 * 3
    assert tuple(philox(1, stream, 1).integers(0, 2**63, 4)) in draws


def test_batch_latents_are_a_function_of_the_step() -> None:
    np.testing.assert_array_equal(batch_latents(3, 17, 8, 10), batch_latents(3, 17, 8, 10))
    assert not np.array_equal(batch_latents(3, 17, 8, 10), batch_latents(3, 18, 8, 10))


@pytest.mark.parametrize("truncation", [0, -1, 1e-9, float("nan")])
def test_a_truncation_that_nothing_passes_is_refused(truncation: float) -> None:
    with pytest.raises(UsageError, match=r"is below 0\.01"):
        latents(3, 5, truncation)


@pytest.mark.parametrize("truncation", [0.05, 0.5, 1.0, 2.0])
def test_truncation_draws_again_only_what_lies_beyond(truncation: float) -> None:
    plain, cut = latents(3, 500), latents(3, 500, truncation)
    within = np.abs(plain) <= truncation
    assert 0 < within.sum() < 500
    np.testing.assert_array_equal(cut[within], plain[within])
    assert np.abs(cut).max() <= np.float32(truncation)
    assert len(np.unique(cut)) == 500  # drawn, not clipped
    np.testing.assert_array_equal(cut, latents(3, 500, truncation))
    np.testing.assert_array_equal(cut[~within], redrawn(plain, within, truncation))


def redrawn(plain: np.ndarray, within: np.ndarray, truncation: float) -> list[float]:
    """The same rule one number at a time: rounds over the open places, each taking the stream's next value."""
    stream = philox(3, PICTURE)
    stream.standard_normal(500, dtype=np.float32)
    found: dict[int, float] = {}
    open_places = np.flatnonzero(~within)
    while len(open_places):
        values = stream.standard_normal(len(open_places), dtype=np.float32)
        found |= dict(zip(open_places.tolist(), values.tolist(), strict=True))
        open_places = np.array([i for i in open_places if abs(found[i]) > truncation], int)
    return [found[i] for i in sorted(found)]


def test_a_wide_truncation_changes_nothing() -> None:
    np.testing.assert_array_equal(latents(0, 100, 9.0), latents(0, 100))


def test_truncated_latents_are_normal_within_the_bounds() -> None:
    """Kolmogorov-Smirnov against the exact distribution of a normal number that is known to lie in +-0.8."""
    values = np.sort(seeded_latents(range(400), 50, 0.8).ravel().astype(float))
    cdf = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))
    expected = (cdf(values) - cdf(-0.8)) / (cdf(0.8) - cdf(-0.8))
    distance = np.abs(expected - (np.arange(len(values)) + 0.5) / len(values)).max()
    assert distance < 1.63 / math.sqrt(len(values))  # passed by 99 % of samples of the right distribution

"""A seed is a picture, on every machine and in every batch."""

from __future__ import annotations

import numpy as np
import pytest

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

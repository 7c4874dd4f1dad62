"""Walks: the arc between two latents, and where the frames stand on it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genkit.image.noise import seeded_latents
from genkit.image.walk import positions, slerp, walk

X, Y = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)


@pytest.mark.parametrize("t", [0.0, 1 / 3, 0.5, 0.9, 1.0])
def test_a_quarter_of_a_circle(t: float) -> None:
    expected = [math.cos(t * math.pi / 2), math.sin(t * math.pi / 2), 0]
    np.testing.assert_allclose(slerp(X, Y, t), expected, atol=1e-7)
    # lengths are handed on: from 2 to 3, White's formula weighs the vectors themselves
    np.testing.assert_allclose(slerp(2 * X, 3 * Y, t), np.multiply(expected, [2, 3, 1]), atol=1e-6)
    assert slerp(X, Y, t).dtype == np.float32


def test_the_angle_grows_evenly_and_the_length_stays() -> None:
    a, b = seeded_latents([0, 1], 50)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    path = np.stack([slerp(a, b, t) for t in np.linspace(0, 1, 9)]).astype(float)
    lengths = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    steps = np.arccos((path[:-1] * path[1:]).sum(1) / lengths[0] ** 2)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


@pytest.mark.parametrize("b", [X, 2 * X, -X, 0 * X], ids=["same", "longer", "opposite", "zero"])
def test_where_there_is_no_arc_the_way_is_straight(b: np.ndarray) -> None:
    np.testing.assert_array_equal(slerp(X, b, 0.25), 0.75 * X + 0.25 * b)


def test_positions() -> None:
    assert list(positions(2, 4, loop=True)) == [(0, 0), (0, 0.5), (1, 0), (1, 0.5)]
    assert list(positions(2, 3, loop=False)) == [(0, 0), (0, 0.5), (1, 0)]
    assert list(positions(3, 2, loop=False)) == [(0, 0), (2, 0)]
    assert list(positions(3, 4, loop=True)) == [(0, 0), (0, 0.75), (1, 0.5), (2, 0.25)]
    for stops, frames in ((2, 60), (3, 60), (7, 50)):
        for loop, length in ((True, stops * (frames - 1) / frames), (False, stops - 1)):
            at = [stop + t for stop, t in positions(stops, frames, loop=loop)]
            np.testing.assert_allclose(at, np.linspace(0, length, frames), atol=1e-12)


def test_frames_on_a_stop_are_that_latent_bit_for_bit() -> None:
    stops = seeded_latents([0, 5, 9], 20)
    looped = list(walk(stops, 12, loop=True))
    assert [stop for stop, _ in looped] == [0] * 4 + [1] * 4 + [2] * 4
    for i in range(3):
        assert np.array_equal(looped[4 * i][1], stops[i])
    np.testing.assert_allclose(looped[11][1], slerp(stops[2], stops[0], 0.75))
    straight = list(walk(stops, 7, loop=False))
    assert [stop for stop, _ in straight] == [0, 0, 0, 1, 1, 1, 2]
    assert np.array_equal(straight[6][1], stops[2])
    np.testing.assert_allclose(straight[1][1], slerp(stops[0], stops[1], 1 / 3))

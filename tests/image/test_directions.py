"""Directions of the latent space: closed forms, and that they change more than others do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import UsageError
from genkit.image.directions import directions_of, find_directions, moved, strengths, strip
from genkit.image.engines import ImageRequest
from genkit.image.models.store import load_generator


def test_of_a_diagonal_layer_they_are_its_axes() -> None:
    found = directions_of(np.diag([1.0, 3.0, 2.0]), 2)
    np.testing.assert_allclose(found.vectors, [[0, 1, 0], [0, 0, 1]], atol=1e-7)
    np.testing.assert_allclose(found.gains, [3, 2])
    np.testing.assert_allclose(found.shares, [9 / 14, 4 / 14])


def test_they_are_orthonormal_and_none_is_stretched_more() -> None:
    layer = np.random.default_rng(0).normal(size=(8, 40))
    found = directions_of(layer, 8)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(8), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.vectors @ layer, axis=1), found.gains, rtol=1e-5)
    others = np.random.default_rng(1).normal(size=(500, 8))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert np.linalg.norm(others @ layer, axis=1).max() <= found.gains[0]
    assert (found.vectors[np.arange(8), np.abs(found.vectors).argmax(1)] > 0).all()
    assert found.shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("model", ["tiny_image", "tiny_classes"])
def test_they_are_those_of_the_generators_first_layer(model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    generator = load_generator(folder)
    layer = generator.main[0] if model == "tiny_image" else generator.stem  # type: ignore[union-attr,index]
    found = find_directions(folder, 3)
    given = torch.zeros(3, layer.in_channels, 1, 1)  # type: ignore[union-attr]
    given[:, :8, 0, 0] = torch.from_numpy(found.vectors)
    with torch.no_grad():
        made = layer(given).flatten(1).norm(dim=1)  # type: ignore[operator]
    np.testing.assert_allclose(made.numpy(), found.gains, rtol=1e-5)


def test_more_than_there_are(tiny_image: Path) -> None:
    with pytest.raises(UsageError, match="the latent has 8"):
        find_directions(tiny_image, 9)


def test_the_middle_column_is_the_image_itself() -> None:
    steps = strengths(2, 5)
    assert steps.tolist() == [-2, -1, 0, 1, 2]
    found = directions_of(np.diag([1.0, 3.0]), 2)
    start = ImageRequest(7, np.array([0.5, -0.5], np.float32), 1)
    rows = list(moved(start, found, steps))
    assert len(rows) == 10
    assert [(row.seed, row.label) for row in rows] == [(7, 1)] * 10
    for middle in (rows[2], rows[7]):
        np.testing.assert_array_equal(middle.z, start.z)
    np.testing.assert_allclose(rows[0].z, start.z - 2 * found.vectors[0])
    with pytest.raises(UsageError, match="no middle"):
        strengths(2, 4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_strip_holds_every_picture(channels: int) -> None:
    pictures = [np.full((32, 32, channels), 10 * i + 5, np.uint8) for i in range(6)]
    if channels == 4:
        for picture in pictures:
            picture[..., 3] = 255
    made = strip(pictures, directions_of(np.diag([1.0, 3.0]), 2), strengths(1, 3))
    assert made.shape == (26 + 2 + 2 * 34, 44 + 2 + 3 * 34, 3)
    for i, (row, column) in enumerate((row, column) for row in range(2) for column in range(3)):
        y, x = 26 + 2 + row * 34, 44 + 2 + column * 34
        assert (made[y : y + 32, x : x + 32] == 10 * i + 5).all()
    assert (made[:26, 44:] < 128).any()  # numbers above
    assert (made[26:, :44] < 128).any()  # and beside

"""Writing is not mirrored, and what looks as likely either way round is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genkit.image.handed import is_handed

Images = NDArray[np.uint8]


def letters(n: int, characters: str = "abcdefghijklmnopqrstuvwxyz", both_polarities: bool = False) -> Images:
    random = np.random.default_rng(0)
    images = []
    for _ in range(n):
        image = Image.new("L", (32, 32))
        place = tuple(random.integers(0, 10, 2).tolist())
        size = int(random.integers(18, 26))
        drawn = characters[random.integers(len(characters))]
        ImageDraw.Draw(image).text(place, drawn, fill=255, font=ImageFont.load_default(size))
        pixels = np.asarray(image)[:, :, None]
        images.append(255 - pixels if both_polarities and random.random() < 0.5 else pixels)
    return np.stack(images)


def words(n: int) -> Images:
    random = np.random.default_rng(0)
    images = []
    for _ in range(n):
        image = Image.new("RGB", (64, 64), "white")
        for row in range(6):
            word = "".join(chr(97 + c) for c in random.integers(0, 26, 12))
            ImageDraw.Draw(image).text((random.integers(0, 6), 10 * row), word, fill=0, font=ImageFont.load_default(9))
        images.append(np.asarray(image))
    return np.stack(images)


def shoes(n: int) -> Images:
    """Wedges that rise to the left."""
    y, x = np.mgrid[:32, :32] / 31 - 0.5
    lengths = np.random.default_rng(0).uniform(0.6, 1.2, n)
    return np.stack([((y > x / s) & (y < 0.3)).astype(np.uint8)[:, :, None] * 200 for s in lengths])


def landscapes(n: int) -> Images:
    """Soft bright spots anywhere, above a dark ground."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    images = []
    for _ in range(n):
        light = np.zeros((32, 32, 3)) + (y < random.integers(12, 24))[:, :, None] * 0.5
        for _ in range(5):
            across, down, width = random.uniform(0, 32), random.uniform(0, 32), random.uniform(2, 8)
            spot = np.exp(-((x - across) ** 2 + (y - down) ** 2) / 2 / width**2)
            light += spot[:, :, None] * random.random(3)
        images.append((light / light.max() * 255).astype(np.uint8))
    return np.stack(images)


def faces(n: int) -> Images:
    """Ovals with two eyes, turned and lit from either side, and a little more often from the left."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 31 - 0.5
    images = []
    for _ in range(n):
        image = ((x / 0.3) ** 2 + (y / 0.4) ** 2 < 1) * random.uniform(0.4, 0.9)
        turn = random.normal(0, 0.06)
        for side in (-0.12, 0.12):
            image = image - 0.3 * ((x - turn - side) ** 2 + (y + 0.08) ** 2 < 0.003)
        image = image + random.random() * 0.3 + random.normal(0.05, 0.3) * x
        images.append((np.clip(image, 0, 1) * 255).astype(np.uint8)[:, :, None])
    return np.stack(images)


@pytest.mark.parametrize("n", [200, 600])
@pytest.mark.parametrize("draw", [letters, words, shoes])
def test_handed_sets(draw: object, n: int) -> None:
    assert is_handed(draw(n))  # type: ignore[operator]


def test_digits_are_handed_and_what_is_written_in_both_colours_too() -> None:
    assert is_handed(letters(300, "0123456789"))
    assert is_handed(letters(800, both_polarities=True))


@pytest.mark.parametrize("n", [2, 3, 20, 150, 600])
@pytest.mark.parametrize("draw", [landscapes, faces])
def test_sets_to_be_mirrored(draw: object, n: int) -> None:
    assert not is_handed(draw(n))  # type: ignore[operator]


def test_a_handed_set_of_which_half_is_mirrored_is_handed_no_more() -> None:
    images = letters(400)
    images[::2] = images[::2, :, ::-1]
    assert not is_handed(images)


def test_symmetric_and_flat_images_say_nothing() -> None:
    assert not is_handed(np.zeros((100, 32, 32, 3), np.uint8))
    assert not is_handed(np.concatenate([half := faces(100), half[:, :, ::-1]], 2).repeat(2, 1))


def test_a_large_set_is_judged_by_some_of_it_from_everywhere() -> None:
    """The first half alone would not be handed."""
    flat = np.zeros((4000, 32, 32, 1), np.uint8)
    flat[2000:] = letters(100)[np.arange(2000) % 100]
    assert is_handed(flat)

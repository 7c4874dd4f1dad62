"""Augmentation: what each change does, that gradients pass, and how its strength is steered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genkit.image.augment import (
    MOST,
    RAMP,
    TARGET,
    Strength,
    augment,
    brightness,
    contrast,
    cutout,
    saturation,
    translation,
)

CHANGES = (brightness, saturation, contrast, translation, cutout)


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 16, 16) * 2 - 1


def test_no_strength_changes_nothing_and_draws_nothing(images: Tensor) -> None:
    state = torch.get_rng_state()
    assert augment(images, 0.0) is images
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_chosen_change(change: Callable[[Tensor, Tensor], Tensor], images: Tensor) -> None:
    chosen = torch.arange(64) % 2 == 0
    changed = change(images, chosen)
    assert changed.shape == images.shape
    assert torch.allclose(changed[~chosen], images[~chosen], atol=1e-6)
    moved = (changed - images)[chosen].abs().amax(dim=(1, 2, 3)) > 1e-3
    assert moved.float().mean() > 0.9  # a shift by 0, or a factor of 1, may be drawn


def test_brightness_adds_one_number(images: Tensor) -> None:
    added = (brightness(images, torch.ones(64, dtype=torch.bool)) - images).flatten(1)
    assert added.std(dim=1).max() < 1e-6
    assert added.min() >= -0.5 - 1e-6
    assert added.max() <= 0.5 + 1e-6


def test_saturation_keeps_grey_and_contrast_keeps_the_mean(images: Tensor) -> None:
    every = torch.ones(64, dtype=torch.bool)
    assert torch.allclose(saturation(images, every).mean(1), images.mean(1), atol=1e-6)
    assert torch.allclose(contrast(images, every).mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6)


def test_translation_shifts_by_at_most_an_eighth() -> None:
    images = torch.zeros(200, 1, 16, 16)
    images[:, :, 8, 8] = 1.0
    places = translation(images, torch.ones(200, dtype=torch.bool)).flatten(1).argmax(1)
    rows, columns = places // 16 - 8, places % 16 - 8
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}


def test_cutout_blanks_at_most_a_quarter() -> None:
    blank = (cutout(torch.ones(200, 1, 16, 16), torch.ones(200, dtype=torch.bool)) == 0).float().mean((1, 2, 3))
    assert blank.max() == 0.25
    assert blank.min() > 0
    assert blank.std() > 0.03


def test_the_share_that_is_changed_is_p(images: Tensor) -> None:
    many = images.repeat(40, 1, 1, 1)
    untouched = ((augment(many, 0.3) - many).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert abs(untouched - 0.7**5) < 0.04


def test_gradients_reach_the_images(images: Tensor) -> None:
    images.requires_grad_(True)
    augment(images, 1.0).sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


def test_grey_and_rgba_images() -> None:
    for channels in (1, 4):
        assert augment(torch.rand(4, channels, 32, 32), 1.0).shape == (4, channels, 32, 32)


def test_strength_rises_while_held_out_images_look_fake() -> None:
    strength = Strength()
    for _ in range(200):
        strength.observe(train=2.0, held_out=-1.0, fake=-1.0, images=100)
    assert strength.gap == pytest.approx(1.0, abs=1e-3)
    assert strength.p == pytest.approx((200 - 10) * 100 / RAMP, abs=0.02)  # after ten the mean has passed the target
    for _ in range(2000):
        strength.observe(train=2.0, held_out=-1.0, fake=-1.0, images=100)
    assert strength.p == MOST


def test_strength_falls_back_to_nothing_when_held_out_images_look_real() -> None:
    strength = Strength(p=0.5, gap=1.0)
    for _ in range(2000):
        strength.observe(train=1.0, held_out=1.0, fake=-1.0, images=100)
    assert strength.p == 0.0
    assert strength.gap < TARGET


def test_a_discriminator_that_is_wrong_says_nothing_about_overfitting() -> None:
    strength = Strength(gap=0.25)
    strength.observe(train=-1.0, held_out=0.0, fake=1.0, images=64)
    assert strength.gap == 0.25

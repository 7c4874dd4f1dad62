"""Anisotropic diffusion against its definition, and what it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkit.image.modelconfig import SMOOTHING_RATE, SMOOTHING_STEPS
from genkit.image.models.smoothing import smooth


def by_definition(image: np.ndarray, levels: float) -> np.ndarray:
    """Perona and Malik's equation 8 with their first conductance, pixel by pixel: image (C, H, W)."""
    contrast = levels / 127.5
    _, height, width = image.shape
    for _ in range(SMOOTHING_STEPS):
        flow = np.zeros_like(image)
        for i in range(height):
            for j in range(width):
                for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                    if 0 <= a < height and 0 <= b < width:
                        difference = image[:, a, b] - image[:, i, j]
                        flow[:, i, j] += np.exp(-(difference**2).sum() / (2 * contrast**2)) * difference
        image = image + SMOOTHING_RATE * flow
    return image


@pytest.mark.parametrize(("channels", "levels"), [(1, 5.0), (3, 12.0), (4, 80.0)])
def test_is_the_equation(channels: int, levels: float) -> None:
    image = np.random.default_rng(0).normal(0, 0.1, (channels, 7, 5))
    found = smooth(torch.from_numpy(image[None]), levels)[0]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, by_definition(image, levels), atol=1e-6)


def test_the_mean_stays_and_nothing_goes_beyond_what_was_there() -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = smooth(images, 40.0)
    torch.testing.assert_close(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    for some in (torch.amax, torch.amin):
        sign = 1 if some is torch.amax else -1
        assert (sign * some(found, (2, 3)) <= sign * some(images, (2, 3)) + 1e-6).all()


def test_noise_goes_and_edges_stay() -> None:
    clean = torch.full((1, 3, 32, 32), -0.5)
    clean[..., 16:] = 0.5  # 127 levels higher
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 2 / 127.5
    found = smooth(clean + noise, 8.0)
    assert (found - clean).std() < 0.25 * noise.std()
    torch.testing.assert_close(smooth(clean, 8.0), clean)


def test_images_do_not_touch_one_another() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(smooth(images, 20.0)[2:3], smooth(images[2:3], 20.0))


def test_gradients_pass() -> None:
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    smooth(images, 10.0).sum().backward()
    torch.testing.assert_close(images.grad, torch.ones_like(images))  # the sum stays

"""DiffAugment (Zhao et al., arXiv 2006.10738) at a strength that follows overfitting.

Real and fake images pass through the same kinds of change on their way into the
discriminator, so that it cannot learn few images by heart, and the generator, through
which gradients flow, does not learn the changes. Each is applied to an image with
probability p. Augmentation that is not needed costs quality, so p starts at zero and
rises while the discriminator knows its training images better than held-out ones
(Karras et al., arXiv 2006.06676, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TARGET = 0.4  # of the gap
RAMP = 30_000  # images over which the strength goes from 0 to 1 at the fastest
MOST = 0.85  # beyond, changes begin to show in what is drawn
_MEMORY = 0.95  # of the gap's running mean, for each measurement
_SHIFT, _CUT = 1 / 8, 1 / 2  # shares of the side


@dataclass(frozen=True)
class Share:
    """Which images of a batch these are, that `ranks` processes divide; each draws for all of them.

    What happens to an image so does not depend on how many processes there are.
    """

    rank: int = 0
    ranks: int = 1

    def uniform(self, n: int, **options: Any) -> Tensor:
        """Numbers (n,) in [0, 1), by torch's global generator."""
        return torch.rand(n * self.ranks, **options).chunk(self.ranks)[self.rank]

    def integers(self, low: int, high: int, n: int, **options: Any) -> Tensor:
        """Two whole numbers (2, n) each, from `low` to `high` - 1."""
        return torch.randint(low, high, (2, n * self.ranks), **options).chunk(self.ranks, dim=1)[self.rank]


ALL = Share()


def augment(images: Tensor, p: float, share: Share = ALL) -> Tensor:
    """Change each of the images (N, C, H, W) in [-1, 1] at random, by differentiable means.

    Draws from torch's global generator, and leaves `p = 0` untouched.
    """
    if p <= 0:
        return images
    for change in (brightness, saturation, contrast, translation, cutout):
        images = change(images, share.uniform(len(images), device=images.device) < p, share)
    return images


def brightness(images: Tensor, chosen: Tensor, share: Share = ALL) -> Tensor:
    """Add up to half a unit to all of an image; `chosen` (N,) says which."""
    return images + (_uniform(images, share) - 0.5) * _each(chosen)


def saturation(images: Tensor, chosen: Tensor, share: Share = ALL) -> Tensor:
    """Scale the distance of each pixel to its grey by 0 to 2."""
    grey = images.mean(dim=1, keepdim=True)
    return grey + (images - grey) * torch.where(_each(chosen), 2 * _uniform(images, share), 1.0)


def contrast(images: Tensor, chosen: Tensor, share: Share = ALL) -> Tensor:
    """Scale the distance of each pixel to the image's mean by 0.5 to 1.5."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * torch.where(_each(chosen), _uniform(images, share) + 0.5, 1.0)


def translation(images: Tensor, chosen: Tensor, share: Share = ALL) -> Tensor:
    """Shift by up to an eighth of the side, with zeros behind."""
    n, _, height, width = images.shape
    reach = round(height * _SHIFT)
    down, right = share.integers(-reach, reach + 1, n, device=images.device) * chosen
    rows = torch.arange(height, device=images.device) + reach + down[:, None]  # (N, H)
    columns = torch.arange(width, device=images.device) + reach + right[:, None]  # (N, W)
    padded = F.pad(images, (reach, reach, reach, reach)).permute(0, 2, 3, 1)  # (N, H + 2 reach, W + 2 reach, C)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (N, C, H, W)


def cutout(images: Tensor, chosen: Tensor, share: Share = ALL) -> Tensor:
    """Blank a square of half the side, which may lie partly outside."""
    n, _, height, width = images.shape
    side = round(height * _CUT)
    top, left = share.integers(-(side // 2), height - side // 2, n, device=images.device)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < top[:, None] + side)  # (N, H)
    in_columns = (columns >= left[:, None]) & (columns < left[:, None] + side)  # (N, W)
    cut = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]  # (N, H, W)
    return images.masked_fill(cut[:, None], 0.0)


@dataclass
class Strength:
    """The probability of a change, steered by what the discriminator thinks of images that it never trained on.

    Attributes:
        p: the probability.
        gap: running mean of (train - held out) / (train - fake), from mean logits: 0 where
            held-out images look as real as those trained on, 1 where they look fake.
    """

    p: float = 0.0
    gap: float = 0.0

    def observe(self, train: float, held_out: float, fake: float, images: int) -> None:
        """Take in mean logits, measured once for every `images` that are trained on."""
        if train > fake:
            gap = min(1.0, max(-1.0, (train - held_out) / (train - fake)))
            self.gap = _MEMORY * self.gap + (1 - _MEMORY) * gap
        step = images / RAMP
        self.p = min(MOST, max(0.0, self.p + (step if self.gap > TARGET else -step)))


def _uniform(images: Tensor, share: Share) -> Tensor:
    """A number in [0, 1) for each image, (N, 1, 1, 1)."""
    return _each(share.uniform(len(images), device=images.device, dtype=images.dtype))


def _each(chosen: Tensor) -> Tensor:
    return chosen[:, None, None, None]

"""genkit's own layout: DCGAN's outline, residual inside, with labels where there are classes."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.image.modelconfig import PlusConfig

LABEL = 64  # numbers that a label is embedded into


class Generator(nn.Module):
    """Latents and labels to images: z (N, nz), y (N,) -> (N, channels, size, size) in [-1, 1]."""

    def __init__(self, config: PlusConfig) -> None:
        super().__init__()
        self.config = config
        filters = config.widths(config.ngf)
        self.label = nn.Embedding(len(config.classes), LABEL) if config.classes else None
        self.stem = nn.Linear(config.nz + (LABEL if config.classes else 0), 16 * filters[0])
        self.blocks = nn.ModuleList(Residual(width) for width in filters)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1) for before, after in pairwise([*filters, config.channels])
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.label is not None:
            z = torch.cat([z, self.label(y)], dim=1)
        x = self.stem(z).unflatten(1, (-1, 4, 4))  # (N, 16 C) -> (N, C, 4, 4)
        for block, up in zip(self.blocks, self.ups, strict=True):
            x = up(F.leaky_relu(block(x), 0.2))
        image: Tensor = x.tanh()
        return image


class Discriminator(nn.Module):
    """Images to logits: x (N, channels, size, size), y (N,) -> (N,), positive for real."""

    def __init__(self, config: PlusConfig) -> None:
        super().__init__()
        self.config = config
        filters = config.widths(config.ndf)[::-1]
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise([config.channels, *filters])
        )
        self.blocks = nn.ModuleList(Residual(width) for width in filters)
        self.head = nn.Linear(16 * filters[-1], 1)
        self.label = nn.Embedding(len(config.classes), 16 * filters[-1]) if config.classes else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        for down, block in zip(self.downs, self.blocks, strict=True):
            x = F.leaky_relu(block(down(x)), 0.2)
        x = x.flatten(1)  # (N, C, 4, 4) -> (N, 16 C)
        logits: Tensor = self.head(x).squeeze(1)
        return logits if self.label is None else logits + (x * self.label(y)).sum(1)


class Residual(nn.Module):
    """x + convolution(act(x)), of 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.convolution(F.leaky_relu(x, 0.2))
        return y

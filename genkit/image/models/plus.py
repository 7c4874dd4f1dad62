"""genkit's own layout: DCGAN's outline with what was learnt since.

The generator draws at every size and adds up what it drew (Karras et al., arXiv 1912.04958,
section 4.1), so that plain areas need no fine detail to be plain; a finished one evens out
the noise that is left in them. The discriminator has spectral instead of batch
normalisation (Miyato et al., arXiv 1802.05957): it judges each image by itself. Where there
are classes, their embedding joins the latent, and is compared with the discriminator's
features (Miyato and Koyama, arXiv 1802.05637).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genkit.image.modelconfig import EMBEDDING, PlusConfig
from genkit.image.models.dcgan import init_weights
from genkit.image.models.smoothing import smooth

_SLOPE = 0.2


class Generator(nn.Module):
    """Latents and labels to images: z (N, nz), y (N,) -> (N, channels, size, size) in [-1, 1]."""

    def __init__(self, config: PlusConfig) -> None:
        super().__init__()
        self.config = config
        filters = config.widths(config.ngf)
        self.label = nn.Embedding(len(config.classes), EMBEDDING) if config.classes else None
        self.stem = nn.ConvTranspose2d(
            config.nz + (EMBEDDING if config.classes else 0), filters[0], 4, 1, 0, bias=False
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in filters)
        self.sketches = nn.ModuleList(nn.Conv2d(width, config.channels, 1) for width in filters)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
            for before, after in pairwise([*filters, config.channels])
        )
        self.apply(init_weights)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.label is not None:
            z = torch.cat([z, self.label(y)], dim=1)
        x = self.stem(z[:, :, None, None])  # (N, nz, 1, 1) -> (N, C, 4, 4)
        image: Tensor | None = None
        for norm, sketch, up in zip(self.norms, self.sketches, self.ups, strict=True):
            x = F.relu(norm(x))
            drawn = sketch(x).float()
            image = F.interpolate(drawn if image is None else image + drawn, scale_factor=2, mode="bilinear")
            x = up(x)  # (N, C, H, W) -> (N, C / 2, 2 H, 2 W)
        assert image is not None  # there are two octaves at least
        image = torch.tanh(image + x)
        return smooth(image, self.config.smoothing) if self.config.smoothing else image


class Discriminator(nn.Module):
    """Images and labels to logits: x (N, channels, size, size), y (N,) -> (N,), positive for real."""

    def __init__(self, config: PlusConfig) -> None:
        super().__init__()
        self.config = config
        filters = config.widths(config.ndf)[::-1]
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise([config.channels, *filters])
        )
        self.head = nn.Conv2d(filters[-1], 1, 4, 1, 0)
        self.label = nn.Embedding(len(config.classes), filters[-1]) if config.classes else None
        self.apply(init_weights)
        for layer in [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Embedding)]:
            spectral_norm(layer)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        for down in self.downs:
            x = F.leaky_relu(down(x), _SLOPE)
        logits: Tensor = self.head(x).flatten()  # (N, 1, 1, 1) -> (N,)
        if self.label is None:
            return logits
        return torch.add(logits, (x.sum(dim=(2, 3)) * self.label(y)).sum(dim=1))

"""DCGAN (Radford, Metz and Chintala, arXiv 1511.06434), as in the PyTorch example.

Each octave is one 4x4 convolution of stride 2. At 64 pixels with default widths the
networks are those of `pytorch/examples/dcgan`, parameter by parameter; 32 pixels take
one stage away at the wide end, 128 and 256 add one and two.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genkit.image.modelconfig import DCGANConfig


class Generator(nn.Module):
    """Latents to images: z (N, nz) -> (N, channels, size, size) in [-1, 1]."""

    def __init__(self, config: DCGANConfig) -> None:
        super().__init__()
        self.config = config
        filters = config.widths(config.ngf)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(config.nz, filters[0], 4, 1, 0, bias=False),
            nn.BatchNorm2d(filters[0]),
            nn.ReLU(inplace=True),
        ]
        for before, after in pairwise(filters):
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(filters[-1], config.channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, z: Tensor, y: None = None) -> Tensor:
        return self.main(z[:, :, None, None])  # type: ignore[no-any-return]  # (N, nz, 1, 1) -> (N, C, H, W)


class Discriminator(nn.Module):
    """Images to logits: x (N, channels, size, size) -> (N,), positive for real.

    `d_norm="batch"` is the reference. The other two have no batch-norm and give every
    convolution a bias instead: `"spectral"` divides each weight by its largest singular
    value (Miyato et al., arXiv 1802.05957), `"none"` leaves it to a gradient penalty.
    """

    def __init__(self, config: DCGANConfig) -> None:
        super().__init__()
        self.config = config
        filters = config.widths(config.ndf)[::-1]
        bias = config.d_norm != "batch"
        layers: list[nn.Module] = [
            nn.Conv2d(config.channels, filters[0], 4, 2, 1, bias=bias),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for before, after in pairwise(filters):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=bias))
            if config.d_norm == "batch":
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        layers.append(nn.Conv2d(filters[-1], 1, 4, 1, 0, bias=bias))
        self.main = nn.Sequential(*layers)
        self.apply(init_weights)
        if config.d_norm == "spectral":
            for layer in self.main:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, x: Tensor, y: None = None) -> Tensor:
        return self.main(x).flatten()  # type: ignore[no-any-return]  # (N, 1, 1, 1) -> (N,)


def init_weights(layer: nn.Module) -> None:
    """Convolutions N(0, 0.02), batch-norm weights N(1, 0.02), biases zero; nothing on meta."""
    if any(parameter.is_meta for parameter in layer.parameters(recurse=False)):
        return
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def reestimate_batch_norm(generator: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Set the batch-norm statistics to those of `generator`'s own weights.

    An averaged generator inherits statistics that belong to other weights. Here they
    become the plain mean over `batches` of latents (N, nz) and labels (N,), in one pass,
    and the generator is left in eval mode, where an image depends on its latent alone.
    """
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    generator.train()
    for z, y in batches:
        generator(z, y)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()

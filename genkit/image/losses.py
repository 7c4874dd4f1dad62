"""GAN objectives as pure functions of logits, and gradient penalties.

To add a loss: write its two functions here and name them in `LOSSES` and in
`GANTrainConfig.loss`. Both sides get real and fake logits, each (N,), because some
objectives (relativistic ones) compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LogitLoss = Callable[[Tensor, Tensor], Tensor]


class GANLoss(NamedTuple):
    """Each maps (real logits, fake logits) to a scalar to be minimised."""

    discriminator: LogitLoss
    generator: LogitLoss


def bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), from logits (Goodfellow et al., arXiv 1406.2661)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def bce_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(G(z)): the non-saturating form."""
    return F.softplus(-fake).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Margins on both sides (Lim and Ye, arXiv 1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


LOSSES: dict[str, GANLoss] = {
    "bce": GANLoss(bce_discriminator, bce_generator),
    "hinge": GANLoss(hinge_discriminator, hinge_generator),
}


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Half the mean squared gradient norm on real images (Mescheder et al., arXiv 1801.04406).

    Args:
        discriminator: images (N, C, H, W) to logits (N,), each from its own image only.
        real: a batch of images; it may carry no gradient.

    Returns:
        A scalar that can be differentiated again; multiply it by gamma.
    """
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()

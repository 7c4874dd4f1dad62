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
_STEEPEST = 8.0  # exp(8) times a gradient is as much as a step survives


class GANLoss(NamedTuple):
    """Functions of (real logits, fake logits).

    Attributes:
        discriminator, generator: a scalar to be minimised by each.
        turn: (N,), how the slope of the generator's loss at each fake logit compares with
            that of the discriminator's: what turns the gradient of one into that of the
            other (Shen et al., arXiv 2103.00430). None where the discriminator's may be 0.
    """

    discriminator: LogitLoss
    generator: LogitLoss
    turn: LogitLoss | None = None


def bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), from logits (Goodfellow et al., arXiv 1406.2661)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def bce_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(G(z)): the non-saturating form."""
    return F.softplus(-fake).mean()


def bce_turn(real: Tensor, fake: Tensor) -> Tensor:
    """-sigmoid(-D) / sigmoid(D)."""
    return -torch.exp(-fake.clamp(-_STEEPEST, _STEEPEST))


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(x) - D(G(z))), in pairs (Jolicoeur-Martineau, arXiv 1807.00734)."""
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(real - fake).mean()


def relativistic_turn(real: Tensor, fake: Tensor) -> Tensor:
    return bce_turn(real, fake - real)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Margins on both sides (Lim and Ye, arXiv 1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


LOSSES: dict[str, GANLoss] = {
    "bce": GANLoss(bce_discriminator, bce_generator, bce_turn),
    "hinge": GANLoss(hinge_discriminator, hinge_generator),
    "relativistic": GANLoss(relativistic_discriminator, relativistic_generator, relativistic_turn),
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

"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genkit.image.config import GANTrainConfig
from genkit.image.losses import LOSSES, r1_penalty
from genkit.image.modelconfig import DCGANConfig
from genkit.image.models.dcgan import Discriminator


def test_every_loss_can_be_chosen() -> None:
    choices = GANTrainConfig.__dataclass_fields__["loss"].metadata["option"].choices
    assert ("auto", *LOSSES) == choices


def test_relativistic_losses_compare_pairs() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    loss = LOSSES["relativistic"]
    apart = torch.tensor([1.5, 2.0])
    torch.testing.assert_close(loss.discriminator(real, fake), torch.log1p(torch.exp(-apart)).mean())
    torch.testing.assert_close(loss.generator(real, fake), torch.log1p(torch.exp(apart)).mean())


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.turn is not None])
def test_the_turn_is_the_ratio_of_the_slopes(name: str) -> None:
    loss = LOSSES[name]
    assert loss.turn is not None
    real, fake = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([0.5, -3.0, 4.0], requires_grad=True)
    (of_d,) = torch.autograd.grad(loss.discriminator(real, fake), fake)
    (of_g,) = torch.autograd.grad(loss.generator(real, fake), fake)
    torch.testing.assert_close(loss.turn(real, fake.detach()), of_g / of_d)


def test_bce_is_the_binary_cross_entropy_of_the_example() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    entropy = nn.BCELoss()
    d_expected = entropy(real.sigmoid(), torch.ones(2)) + entropy(fake.sigmoid(), torch.zeros(2))
    g_expected = entropy(fake.sigmoid(), torch.ones(2))
    loss = LOSSES["bce"]
    torch.testing.assert_close(loss.discriminator(real, fake), d_expected)
    torch.testing.assert_close(loss.generator(real, fake), g_expected)


def test_bce_where_nothing_is_known() -> None:
    zero = torch.zeros(4)
    assert LOSSES["bce"].discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert LOSSES["bce"].generator(zero, zero).item() == pytest.approx(math.log(2))


def test_bce_does_not_saturate_at_100() -> None:
    """BCELoss clamps its logarithm at 100, where the gradient is lost; logits keep both."""
    fake = torch.tensor([-500.0], requires_grad=True)
    loss = LOSSES["bce"].generator(fake, fake)
    loss.backward()
    assert loss.item() == 500
    assert fake.grad is not None
    assert fake.grad.item() == -1


def test_hinge() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    assert LOSSES["hinge"].discriminator(real, fake).item() == (0 + 2) / 2 + (1.5 + 0) / 2
    assert LOSSES["hinge"].generator(real, fake).item() == 1.25


def test_r1_of_a_linear_discriminator_is_half_the_squared_weight() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 4, requires_grad=True)
    real = torch.randn(5, 3, 4, 4)
    penalty = r1_penalty(lambda x: (x * weight).sum((1, 2, 3)), real)
    torch.testing.assert_close(penalty, 0.5 * weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_r1_of_a_quadratic_discriminator() -> None:
    """D(x) = a |x|^2 / 2 has the gradient a x, so R1 = a^2 E|x|^2 / 2 and dR1/da = a E|x|^2."""
    a = torch.tensor(3.0, requires_grad=True)
    real = torch.randn(6, 1, 2, 2)
    penalty = r1_penalty(lambda x: a * x.square().sum((1, 2, 3)) / 2, real)
    mean_square = real.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(penalty, 4.5 * mean_square)
    penalty.backward()
    torch.testing.assert_close(a.grad, 3 * mean_square)


@pytest.mark.parametrize("d_norm", ["none", "spectral"])
def test_r1_reaches_every_weight_and_no_image(d_norm: str) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(DCGANConfig(size=32, ndf=4, d_norm=d_norm))
    real = torch.randn(4, 3, 32, 32)
    r1_penalty(discriminator, real).backward()
    grads = {n: p.grad for n, p in discriminator.named_parameters() if "bias" not in n}
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values())
    assert real.grad is None

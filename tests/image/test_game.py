"""One step of both networks: gradients against the plain way of computing them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from genkit.image.config import GANTrainConfig
from genkit.image.game import Game
from genkit.image.losses import LOSSES
from genkit.image.modelconfig import DCGANConfig, PlusConfig
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime

SMALL = {"size": 32, "ngf": 4, "ndf": 4, "nz": 8}


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(resolve("cpu", "fp32", task="train-gan")) as entered:
        yield entered


def game_of(runtime: Runtime, loss: str, *, classes: tuple[str, ...] = (), **settings: object) -> Game:
    config = GANTrainConfig(
        **(SMALL | {"loss": loss, "regularizer": "none", "gamma": 1.0, "reg_interval": 1, "lr": 1e-3, "beta1": 0.0}
           | {"beta2": 0.9, "batch_size": 6} | settings)
    )  # fmt: skip
    torch.manual_seed(0)
    return Game(config, PlusConfig(**SMALL, classes=classes), runtime)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(6, 3, 32, 32) * 2 - 1, torch.randn(6, 8)


class Frozen(torch.optim.SGD):
    """Remembers the gradients that it was given."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]


@pytest.mark.parametrize("loss", ["bce", "relativistic"])
def test_one_pass_gives_both_networks_the_gradients_of_their_own_loss(runtime: Runtime, loss: str) -> None:
    game = game_of(runtime, loss)
    real, z = batch()
    generator, discriminator = copy.deepcopy(game.generator), copy.deepcopy(game.discriminator)
    game._adam_g, game._adam_d = (Frozen(net.parameters(), 0.1) for net in (game.generator, game.discriminator))  # type: ignore[assignment]
    assert game.at_once
    numbers = game.step(real, None, z, None, 0)

    fake = generator(z)
    twin = copy.deepcopy(discriminator)  # spectral norms move with every pass
    real_logits, fake_logits = discriminator(torch.cat([real, fake.detach()])).chunk(2)
    d_loss = LOSSES[loss].discriminator(real_logits, fake_logits)
    d_gradients = torch.autograd.grad(d_loss, list(discriminator.parameters()))
    g_loss = LOSSES[loss].generator(real_logits.detach(), twin(torch.cat([real, fake])).chunk(2)[1])
    g_gradients = torch.autograd.grad(g_loss, list(generator.parameters()))
    for seen, expected in ((game._adam_d.seen, d_gradients), (game._adam_g.seen, g_gradients)):  # type: ignore[attr-defined]
        for a, b in zip(seen, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert numbers["d_loss"] == pytest.approx(d_loss.item(), rel=1e-5)
    assert numbers["g_loss"] == pytest.approx(g_loss.item(), rel=1e-5)
    assert numbers["d_real"] == pytest.approx(real_logits.mean().item(), rel=1e-4, abs=1e-6)


def test_hinge_and_batch_norm_take_turns(runtime: Runtime) -> None:
    assert not game_of(runtime, "hinge").at_once
    config = GANTrainConfig(arch="dcgan", d_norm="batch", loss="bce", regularizer="none", batch_size=6, **SMALL)
    assert not Game(config, DCGANConfig(**SMALL), runtime).at_once


def test_the_discriminator_learns_before_the_generator_where_they_take_turns(runtime: Runtime) -> None:
    game = game_of(runtime, "hinge")
    real, z = batch()
    generator, discriminator = copy.deepcopy(game.generator), copy.deepcopy(game.discriminator)
    game._adam_g = Frozen(game.generator.parameters(), 0.1)  # type: ignore[assignment]
    game.step(real, None, z, None, 0)

    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.9), fused=True)
    fake = generator(z)
    LOSSES["hinge"].discriminator(discriminator(real), discriminator(fake.detach())).backward()
    optimizer.step()
    discriminator.requires_grad_(False)
    expected = torch.autograd.grad(-discriminator(fake).mean(), list(generator.parameters()))
    for a, b in zip(game._adam_g.seen, expected, strict=True):  # type: ignore[attr-defined]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_the_penalty_counts_for_the_steps_that_it_stands_for(runtime: Runtime) -> None:
    real, z = batch()
    every = game_of(runtime, "bce", regularizer="r1", reg_interval=1, gamma=0.5)
    lazy = game_of(runtime, "bce", regularizer="r1", reg_interval=4, gamma=0.5)
    first = every.step(real, None, z, None, 0)["penalty"]
    assert first > 0
    assert lazy.step(real, None, z, None, 0)["penalty"] == pytest.approx(4 * first, rel=1e-5)
    assert lazy.step(real, None, z, None, 1)["penalty"] == 0


def test_labels_of_real_and_fake_images_reach_the_networks(runtime: Runtime) -> None:
    real, z = batch()
    labels, others = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([1, 1, 1, 0, 0, 0])
    found = []
    for y, z_y in ((labels, others), (1 - labels, others), (labels, 1 - others)):
        game = game_of(runtime, "bce", classes=("cat", "dog"))
        for network in (game.generator, game.discriminator):
            weights = [p for name, p in network.named_parameters() if name.startswith("label")]
            nn.init.normal_(weights[0], generator=torch.Generator().manual_seed(0))
        found.append(game.step(real, y, z, z_y, 0))
    assert found[0]["d_real"] != found[1]["d_real"]
    assert found[0]["d_fake"] == pytest.approx(found[1]["d_fake"], rel=1e-5)
    assert found[0]["d_fake"] != found[2]["d_fake"]

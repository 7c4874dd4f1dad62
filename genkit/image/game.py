"""Generator against discriminator: the networks, their optimizers, and one step of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from genkit.image.config import GANTrainConfig
from genkit.image.losses import LOSSES, r1_penalty
from genkit.image.modelconfig import DCGANConfig
from genkit.image.models.dcgan import Discriminator, Generator
from genkit.runtime.manager import Runtime
from genkit.training.optim import step_optimizers


class Game:
    """Two networks that learn from each other.

    Attributes:
        generator, discriminator: freshly initialised from torch's global
            generator, on the device, channels last in memory.
        optimizers: an Adam for each, with its `peak_lr` for `set_lr`.
    """

    def __init__(self, config: GANTrainConfig, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        shape = DCGANConfig(
            size=config.size,
            channels=config.channels,
            nz=config.nz,
            ngf=config.ngf,
            ndf=config.ndf,
            d_norm=config.d_norm,
        )
        self.generator, self.discriminator = Generator(shape), Discriminator(shape)
        for network in (self.generator, self.discriminator):
            network.to(runtime.device)
            network.to(memory_format=torch.channels_last)
        self._adam_g = _adam(self.generator, config.lr, config)
        self._adam_d = _adam(self.discriminator, config.d_lr or config.lr, config)
        self.optimizers: dict[str, Optimizer] = {"adam_generator": self._adam_g, "adam_discriminator": self._adam_d}
        self._loss = LOSSES[config.loss]
        self._generate = runtime.compile(self.generator, config.compile)
        self._judge = runtime.compile(self.discriminator, config.compile)

    def step(self, real: Tensor, z: Tensor, step: int) -> dict[str, float]:
        """One step of D, then one of G on the same fakes.

        Args:
            real: (N, C, H, W) in [-1, 1].
            z: (N, nz) latents.
            step: steps done before, for lazy regularisation.

        Returns:
            d_loss, g_loss and penalty.
        """
        config, runtime = self.config, self.runtime

        # the discriminator learns to tell real images from fake ones
        self.discriminator.requires_grad_(True)
        with runtime.autocast():
            fake = self._generate(z)
            real_logits, fake_logits = self._judge(real), self._judge(fake.detach())  # (N,) each
        d_loss = self._loss.discriminator(real_logits.float(), fake_logits.float())
        penalty = torch.zeros((), device=runtime.device)
        if config.regularizer == "r1" and step % config.reg_interval == 0:
            penalty = config.gamma * config.reg_interval * r1_penalty(self.discriminator, real)
        self._descend(self._adam_d, d_loss + penalty)

        # the generator learns to have the same fakes taken for real
        self.discriminator.requires_grad_(False)
        with runtime.autocast():
            judged = self._judge(fake)
        g_loss = self._loss.generator(real_logits.detach().float(), judged.float())
        self._descend(self._adam_g, g_loss)

        if runtime.scaler is not None:
            runtime.scaler.update()
        numbers = torch.stack([d_loss, g_loss, penalty]).tolist()
        return dict(zip(("d_loss", "g_loss", "penalty"), numbers, strict=True))

    def _descend(self, optimizer: Adam, loss: Tensor) -> None:
        scaler = self.runtime.scaler
        (scaler.scale(loss) if scaler is not None else loss).backward()  # type: ignore[no-untyped-call]
        step_optimizers({"adam": optimizer}, scaler=scaler)


def _adam(network: nn.Module, lr: float, config: GANTrainConfig) -> Adam:
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    optimizer = Adam(network.parameters(), lr, (config.beta1, config.beta2), fused=fused)
    for group in optimizer.param_groups:
        group["peak_lr"] = lr
    return optimizer

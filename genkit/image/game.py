"""Generator against discriminator: the networks, their optimizers, and one step of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from genkit.image.augment import Strength, augment
from genkit.image.config import GANTrainConfig
from genkit.image.losses import LOSSES, r1_penalty
from genkit.image.modelconfig import ModelConfig
from genkit.image.models.networks import discriminator_of, generator_of
from genkit.runtime.manager import Runtime
from genkit.training.optim import step_optimizers


class Game:
    """Two networks that learn from each other.

    Where each logit depends on one image alone, and the loss allows it, both learn from
    one pass: the gradient that the discriminator's loss has at a fake image becomes the
    generator's by a factor (Shen et al., arXiv 2103.00430). That saves the second of
    three passes through the discriminator, a fifth of the whole. Else the discriminator
    goes first and the generator answers it, as in the PyTorch example.

    Attributes:
        generator, discriminator: freshly initialised from torch's global
            generator, on the device, channels last in memory.
        optimizers: an Adam for each, with its `peak_lr` for `set_lr`.
        strength: of the augmentation; the caller steers it.
        at_once: whether both learn from one pass.
    """

    def __init__(self, config: GANTrainConfig, shape: ModelConfig, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        self.generator, self.discriminator = generator_of(shape), discriminator_of(shape)
        for network in (self.generator, self.discriminator):
            network.to(runtime.device)
            network.to(memory_format=torch.channels_last)
        self._adam_g = _adam(self.generator, config.lr, config)
        self._adam_d = _adam(self.discriminator, config.d_lr or config.lr, config)
        self.optimizers: dict[str, Optimizer] = {"adam_generator": self._adam_g, "adam_discriminator": self._adam_d}
        self.strength = Strength()
        self._loss = LOSSES[config.loss]
        mixes = any(isinstance(module, nn.BatchNorm2d) for module in self.discriminator.modules())
        self.at_once = not mixes and self._loss.turn is not None
        self._generate = runtime.compile(self.generator, config.compile)
        self._judge = runtime.compile(self.discriminator, config.compile)

    def step(
        self, real: Tensor, labels: Tensor | None, z: Tensor, z_labels: Tensor | None, step: int
    ) -> dict[str, float]:
        """One step of each network.

        Args:
            real: (N, C, H, W) in [-1, 1], of the classes `labels` (N,).
            z: (N, nz) latents, to be drawn as of the classes `z_labels` (N,).
            step: steps done before, for lazy regularisation.

        Returns:
            d_loss, g_loss, penalty, and the mean logits d_real and d_fake.
        """
        self.discriminator.requires_grad_(True)
        with self.runtime.autocast():
            fake = self._generate(z, z_labels).float()
        penalty = self._penalty(real, labels, step)
        play = self._at_once if self.at_once else self._in_turn
        d_loss, g_loss, real_logits, fake_logits = play(self._augment(real), labels, fake, z_labels, penalty)
        if self.runtime.scaler is not None:
            self.runtime.scaler.update()
        numbers = torch.stack([d_loss, g_loss, penalty, real_logits.mean(), fake_logits.mean()]).tolist()
        return dict(zip(("d_loss", "g_loss", "penalty", "d_real", "d_fake"), numbers, strict=True))

    @torch.no_grad()
    def judge(self, images: Tensor, labels: Tensor | None) -> float:
        """The mean logit of images that it does not learn from, augmented as those that it does."""
        with self.runtime.autocast():
            logits = self._judge(self._augment(images), labels)
        return float(logits.float().mean())

    def _at_once(
        self, real: Tensor, labels: Tensor | None, fake: Tensor, z_labels: Tensor | None, penalty: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shown = fake.detach().requires_grad_(True)
        both = torch.cat([real, self._augment(shown)])  # (2N, C, H, W)
        with self.runtime.autocast():
            logits = self._judge(both, None if labels is None or z_labels is None else torch.cat([labels, z_labels]))
        real_logits, fake_logits = logits.float().chunk(2)
        d_loss = self._loss.discriminator(real_logits, fake_logits)
        self._backward(d_loss + penalty)
        fake.backward(shown.grad * self._turn(real_logits, fake_logits))  # type: ignore[no-untyped-call]
        self._update(self._adam_d)
        self._update(self._adam_g)
        real_logits, fake_logits = real_logits.detach(), fake_logits.detach()
        return d_loss.detach(), self._loss.generator(real_logits, fake_logits), real_logits, fake_logits

    @torch.no_grad()
    def _turn(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What makes the discriminator's gradient at each fake image the generator's, (N, 1, 1, 1)."""
        assert self._loss.turn is not None  # at_once says so
        return self._loss.turn(real_logits, fake_logits)[:, None, None, None]

    def _in_turn(
        self, real: Tensor, labels: Tensor | None, fake: Tensor, z_labels: Tensor | None, penalty: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with self.runtime.autocast():
            real_logits = self._judge(real, labels).float()  # by themselves: batch-norm would mix them with the fakes
            fake_logits = self._judge(self._augment(fake.detach()), z_labels).float()  # (N,) each
        d_loss = self._loss.discriminator(real_logits, fake_logits)
        self._backward(d_loss + penalty)
        self._update(self._adam_d)

        self.discriminator.requires_grad_(False)
        with self.runtime.autocast():
            judged = self._judge(self._augment(fake), z_labels).float()
        g_loss = self._loss.generator(real_logits.detach(), judged)
        self._backward(g_loss)
        self._update(self._adam_g)
        return d_loss.detach(), g_loss.detach(), real_logits.detach(), fake_logits.detach()

    def _penalty(self, real: Tensor, labels: Tensor | None, step: int) -> Tensor:
        config = self.config
        if config.regularizer != "r1" or step % config.reg_interval:
            return torch.zeros((), device=self.runtime.device)
        return config.gamma * config.reg_interval * r1_penalty(lambda x: self.discriminator(x, labels), real)

    def _augment(self, images: Tensor) -> Tensor:
        return augment(images, self.strength.p)

    def _backward(self, loss: Tensor) -> None:
        scaler = self.runtime.scaler
        (scaler.scale(loss) if scaler is not None else loss).backward()  # type: ignore[no-untyped-call]

    def _update(self, optimizer: Adam) -> None:
        step_optimizers({"adam": optimizer}, scaler=self.runtime.scaler)


def _adam(network: nn.Module, lr: float, config: GANTrainConfig) -> Adam:
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    optimizer = Adam(network.parameters(), lr, (config.beta1, config.beta2), fused=fused)
    for group in optimizer.param_groups:
        group["peak_lr"] = lr
    return optimizer

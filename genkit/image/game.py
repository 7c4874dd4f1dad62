"""Generator against discriminator: the networks, their optimizers, and one step of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from genkit.image.augment import Share, Strength, augment
from genkit.image.config import GANTrainConfig, parse_probability
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
        parts: one of so many parts of a batch is what a step learns from, where memory is short;
            one after the other they would not be the same, because batch-norm sees them apart.
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
        self.strength = Strength(0.0 if config.augment in ("auto", "off") else parse_probability(config.augment))
        self._share = Share(runtime.rank, runtime.world_size)
        self._loss = LOSSES[config.loss]
        mixes = any(isinstance(module, nn.BatchNorm2d) for module in self.discriminator.modules())
        self.at_once = not mixes and self._loss.turn is not None
        self.parts = 1
        self._generate = runtime.compile(self.generator, config.compile)
        self._judge = runtime.compile(self.discriminator, config.compile)

    def step(
        self, real: Tensor, labels: Tensor | None, z: Tensor, z_labels: Tensor | None, step: int
    ) -> dict[str, float]:
        """One step of each network, whose gradients and batch-norm are those of all ranks.

        Args:
            real: this rank's share of the images, (N, C, H, W) in [-1, 1], of the classes `labels` (N,).
            z: (N, nz) latents, to be drawn as of the classes `z_labels` (N,).
            step: steps done before, for lazy regularisation.

        Returns:
            d_loss, g_loss, penalty, and the mean logits d_real and d_fake.
        """
        self.discriminator.requires_grad_(True)
        n = self.rows(len(real))
        real, z = real[:n], z[:n]
        labels, z_labels = (None if y is None else y[:n] for y in (labels, z_labels))
        learn = self._at_once if self.at_once else self._in_turn
        numbers = self.runtime.mean(learn(real, labels, z, z_labels, step))
        return dict(zip(("d_loss", "g_loss", "penalty", "d_real", "d_fake"), numbers.tolist(), strict=True))

    def rows(self, batch_size: int) -> int:
        """How many images of a batch a step learns from."""
        return batch_size // self.parts

    def to_dict(self) -> dict[str, float]:
        """What it must remember besides the networks and optimizers, as JSON values."""
        return {"parts": self.parts, **asdict(self.strength)}

    def restore(self, values: Mapping[str, float]) -> None:
        """Take back what `to_dict` gave."""
        self.parts = int(values["parts"])
        self.strength = Strength(p=values["p"], gap=values["gap"])

    def back_off(self, rows: int) -> str | None:
        """Forget a step of so many rows that memory did not suffice for, and take fewer from here on.

        Returns:
            what that means, or None where nothing is left to divide.
        """
        parts = next((more for more in range(2 * self.parts, rows // 2 + 1) if rows % more == 0), None)
        if parts is None:
            return None
        self.parts = parts
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.runtime.empty_cache()
        return f"out of memory: a step learns from {rows // parts} images instead of {rows} from here on"

    @torch.no_grad()
    def judge(self, images: Tensor, labels: Tensor | None) -> float:
        """The mean logit of images that it does not learn from, augmented as those that it does."""
        with self.runtime.autocast():
            logits = self._judge(self._augment(images), labels)
        return float(self.runtime.mean(logits.float().mean()))

    def _at_once(self, real: Tensor, labels: Tensor | None, z: Tensor, z_labels: Tensor | None, step: int) -> Tensor:
        """Update both networks; returns the five numbers."""
        fake, penalty = self._fake(z, z_labels), self._penalty(real, labels, step)
        real, shown = self._augment(real), fake.detach().requires_grad_(True)
        both = torch.cat([real, self._augment(shown)])  # (2N, C, H, W)
        with self.runtime.autocast():
            logits = self._judge(both, None if labels is None or z_labels is None else torch.cat([labels, z_labels]))
        real_logits, fake_logits = logits.float().chunk(2)
        d_loss = self._loss.discriminator(real_logits, fake_logits)
        self._backward(d_loss + penalty)
        assert shown.grad is not None
        fake.backward(shown.grad * self._turn(real_logits, fake_logits))  # type: ignore[no-untyped-call]
        self._update(self.discriminator, self._adam_d)
        self._update(self.generator, self._adam_g)
        return _numbers(d_loss, self._loss.generator(real_logits, fake_logits), penalty, real_logits, fake_logits)

    @torch.no_grad()
    def _turn(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What makes the discriminator's gradient at each fake image the generator's, (N, 1, 1, 1)."""
        assert self._loss.turn is not None  # at_once says so
        return self._loss.turn(real_logits, fake_logits)[:, None, None, None]

    def _in_turn(self, real: Tensor, labels: Tensor | None, z: Tensor, z_labels: Tensor | None, step: int) -> Tensor:
        """Update one network, then the other; returns the five numbers."""
        fake, penalty = self._fake(z, z_labels), self._penalty(real, labels, step)
        real = self._augment(real)
        with self.runtime.autocast():
            real_logits = self._judge(real, labels).float()  # by themselves: batch-norm would mix them with the fakes
            fake_logits = self._judge(self._augment(fake.detach()), z_labels).float()  # (N,) each
        d_loss = self._loss.discriminator(real_logits, fake_logits)
        self._backward(d_loss + penalty)
        self._update(self.discriminator, self._adam_d)

        self.discriminator.requires_grad_(False)
        with self.runtime.autocast():
            judged = self._judge(self._augment(fake), z_labels).float()
        g_loss = self._loss.generator(real_logits.detach(), judged)
        self._backward(g_loss)
        self._update(self.generator, self._adam_g)
        return _numbers(d_loss, g_loss, penalty, real_logits, fake_logits)

    def _fake(self, z: Tensor, z_labels: Tensor | None) -> Tensor:
        with self.runtime.autocast():
            images: Tensor = self._generate(z, z_labels)
        return images.float()

    def _penalty(self, real: Tensor, labels: Tensor | None, step: int) -> Tensor:
        config = self.config
        if config.regularizer != "r1" or step % config.reg_interval:
            return torch.zeros((), device=self.runtime.device)
        return (config.gamma or 0.0) * config.reg_interval * r1_penalty(self._plainly(labels), real)

    def _plainly(self, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The discriminator past torch.compile, which cannot differentiate twice."""
        return lambda images: self.discriminator.forward(images, labels)  # type: ignore[arg-type]

    def _augment(self, images: Tensor) -> Tensor:
        return augment(images, self.strength.p, self._share)

    def _backward(self, loss: Tensor) -> None:
        scaler = self.runtime.scaler
        (scaler.scale(loss) if scaler is not None else loss).backward()  # type: ignore[no-untyped-call]

    def _update(self, network: nn.Module, optimizer: Adam) -> None:
        self.runtime.average_gradients(network)
        scaler = self.runtime.scaler
        step_optimizers({"adam": optimizer}, scaler=scaler)
        if scaler is not None:
            scaler.update()  # after each network, or a step that memory ends between them could not be taken again


def _numbers(d_loss: Tensor, g_loss: Tensor, penalty: Tensor, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return torch.stack([d_loss, g_loss, penalty, real_logits.mean(), fake_logits.mean()]).detach()


def _adam(network: nn.Module, lr: float, config: GANTrainConfig) -> Adam:
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    optimizer = Adam(network.parameters(), lr, (config.beta1 or 0.0, config.beta2 or 0.0), fused=fused)
    for group in optimizer.param_groups:
        group["peak_lr"] = lr
    return optimizer

"""Projection: the latent from which a generator draws a given image best.

Gradient descent on z, as the projector of StyleGAN2 does it (Karras et al., arXiv
1912.04958) but on the latent itself, from several starts at once, of which the worse
half is given up twice on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genkit.image.engines.torch import to_images, to_pixels
from genkit.image.features import MEAN, SIDE, STD, load_network
from genkit.image.labels import by_seed
from genkit.image.models.networks import Generator
from genkit.image.noise import seeded_latents
from genkit.runtime.manager import Runtime

STARTS = 8
_POOL = 512  # pictures that the starts are chosen from, but some for every class
_OF_A_CLASS = 4
_BATCH = 64
_LR = 0.05
_SHELL = 1e-3  # weight of the squared distance of |z| from its mean in training
_SEEN = 0.3  # weight of the features beside the pixels
_COARSEST = 4  # pixels a side
_SIDE = SIDE // 2  # of the images whose features are compared


Seen = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [-1, 1] to features (N, F), differentiable."""


@dataclass(frozen=True)
class Projection:
    """What was found.

    Attributes:
        z: float32 (nz,).
        label: None where the model has no classes.
        distance: mean absolute difference of the values of both images, 0 to 1, over
            all resolutions.
        pixels: what the generator draws from them, uint8 (H, W, C).
    """

    z: NDArray[np.float32]
    label: int | None
    distance: float
    pixels: NDArray[np.uint8]


def project(
    generator: Generator,
    target: NDArray[np.uint8],
    *,
    steps: int,
    runtime: Runtime,
    seed: int = 0,
    label: int | None = None,
    seen: Seen | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Projection:
    """Find the latent, and the label, that `generator` draws `target` from.

    It starts from the best of the pictures of `seed`, `seed + 1`, ... The same
    arguments give the same latent on the same machine.

    Args:
        generator: in eval mode on the device.
        target: uint8 (size, size, channels).
        label: the class; default: all are tried.
        seen: makes features that the images shall have in common too.
        on_step: is told the steps done and the best loss so far.
    """
    generator.requires_grad_(False)
    goal = to_images(torch.tensor(target[None]).to(runtime.device))  # (1, C, H, W)
    seen_goal = seen(goal) if seen else None
    shell = math.sqrt(generator.config.nz)

    def loss(z: Tensor, y: Tensor | None) -> Tensor:  # (N,)
        images = generator(z, y)
        made: Tensor = distances(images, goal) + _SHELL * (z.norm(dim=1) - shell).square()
        if seen is not None and seen_goal is not None:
            made = made + _SEEN * (1 - F.cosine_similarity(seen(images), seen_goal))
        return made

    z, y = _starts(generator, goal, runtime, seed, label)  # (STARTS, nz), (STARTS,) or None
    best = _Best()
    optimizer = torch.optim.Adam([z.requires_grad_(True)], _LR)
    for step in range(steps):
        losses = loss(z, y)
        best.see(losses, z, y)
        on_step(step, best.loss)
        optimizer.param_groups[0]["lr"] = _LR * min(1.0, 4 * (1 - step / steps))  # the last quarter cools down
        optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in (steps // 3, 2 * steps // 3):
            kept = losses.argsort()[: -(-len(z) // 2)]
            z, y = z.detach()[kept], None if y is None else y[kept]
            optimizer = torch.optim.Adam([z.requires_grad_(True)], _LR)
    with torch.inference_mode():
        best.see(loss(z, y), z, y)
        image = generator(best.z[None], None if best.y is None else best.y[None])
    found = None if best.y is None else int(best.y)
    return Projection(best.z.cpu().numpy(), found, distances(image, goal).item(), to_pixels(image)[0])


class _Best:
    """The latent, of all that were seen, with the least loss."""

    loss = math.inf
    z: Tensor
    y: Tensor | None

    def see(self, losses: Tensor, z: Tensor, y: Tensor | None) -> None:
        least = int(losses.argmin())
        if losses[least].item() < self.loss:
            self.loss, self.z = losses[least].item(), z[least].detach().clone()
            self.y = None if y is None else y[least]


def distances(images: Tensor, goal: Tensor) -> Tensor:
    """Mean absolute difference of each image (N, C, H, W) to `goal` (1, C, H, W), over resolutions down to 4x4.

    Returns:
        (N,), from 0 to 1.
    """
    difference, found = _opaque(images) - _opaque(goal), []
    while True:
        found.append(difference.abs().mean((1, 2, 3)) / 2)
        if difference.shape[-1] <= _COARSEST:
            return torch.stack(found).mean(0)
        difference = F.avg_pool2d(difference, 2)


def features(runtime: Runtime) -> Seen:
    """What an EfficientNet-Lite0 sees in images at half of its own size.

    Raises:
        InputError: its weights are not installed; `genkit.image.features.available` says so.
    """
    network = load_network(runtime.device)
    mean, deviation = (torch.from_numpy(values).to(runtime.device)[:, None, None] for values in (MEAN, STD))

    def seen(images: Tensor) -> Tensor:
        levels = (_on_white(images) + 1) / 2  # (N, 3, H, W), 0 to 1
        scaled = F.interpolate(levels, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        made: Tensor = network(((scaled - mean) / deviation).flip(2, 3))  # it sees images turned by 180 degrees
        return made

    return seen


def _opaque(images: Tensor) -> Tensor:
    """What can be seen of images (N, C, H, W): a colour as far as its alpha shows it."""
    if images.shape[1] != 4:
        return images
    alpha = images[:, 3:]
    return torch.cat([(images[:, :3] + 1) * (alpha + 1) / 2 - 1, alpha], dim=1)


def _on_white(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as colours (N, 3, H, W) without transparency."""
    color = images[:, :3].expand(-1, 3, -1, -1)
    if images.shape[1] != 4:
        return color
    alpha = (images[:, 3:] + 1) / 2
    return color * alpha + 1 - alpha


@torch.no_grad()
def _starts(
    generator: Generator, goal: Tensor, runtime: Runtime, seed: int, label: int | None
) -> tuple[Tensor, Tensor | None]:
    """The latents (STARTS, nz) and labels whose pictures come nearest; of every class the best before any second."""
    classes = generator.config.classes
    pool = max(_POOL, _OF_A_CLASS * len(classes) * (label is None))
    seeds = range(seed, seed + pool)
    z = torch.from_numpy(seeded_latents(seeds, generator.config.nz)).to(runtime.device)
    y = None
    if classes:
        given = [by_seed(one, classes) if label is None else label for one in seeds]
        y = torch.tensor(given, device=runtime.device)
    found = [
        distances(generator(z[i : i + _BATCH], None if y is None else y[i : i + _BATCH]), goal)
        for i in range(0, pool, _BATCH)
    ]
    order = torch.cat(found).argsort().tolist()
    first: dict[int, int] = {}
    for i in order:
        first.setdefault(0 if y is None else int(y[i]), i)
    chosen = list(dict.fromkeys([*first.values(), *order]))[:STARTS]
    return z[chosen].clone(), None if y is None else y[chosen].clone()

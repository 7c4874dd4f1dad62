"""What a step trains on: real images, latents and the labels of both, as pure functions of seed and step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from genkit.image.augment import RAMP
from genkit.image.config import GANTrainConfig
from genkit.image.engines.torch import to_images
from genkit.image.game import Game
from genkit.image.noise import HELD_OUT, LABEL, batch_latents, philox
from genkit.image.store import ImageStore
from genkit.runtime.manager import Runtime, is_out_of_memory
from genkit.training.ahead import Batch

_STEER_INTERVAL = 4  # steps
_BLIND = 0.6  # strength of the augmentation where nothing is held out


def training_batch(config: GANTrainConfig, store: ImageStore, step: int) -> Batch:
    """Pixels uint8 (N, H, W, C) and latents (N, nz) of a step, and the labels (N,) of each where there are classes."""
    n, seed = config.batch_size, config.seed
    pixels, labels = store.batch(batch_size=n, seed=seed, step=step, flip=bool(config.flip))
    arrays: list[NDArray[np.generic]] = [pixels, batch_latents(seed, step, n, config.nz)]
    if store.labels is not None and labels is not None:
        # fake images are of the classes of the data, as often
        arrays += [labels, store.labels[philox(seed, LABEL, step).integers(len(store.labels), size=n)]]
    return tuple(torch.from_numpy(array) for array in arrays)


def play(game: Game, batch: Batch, runtime: Runtime, step: int) -> tuple[dict[str, float], str | None]:
    """One step of both networks on this rank's share of a `training_batch`, or on a part of it where memory is short.

    Returns:
        the losses, and what is to be told of the memory.

    Raises:
        RuntimeError: out of memory even with two images at a time, or on one of several ranks.
    """
    told = None
    batch = tuple(tensor.chunk(runtime.world_size)[runtime.rank] for tensor in batch)
    while True:
        # what is drawn on the way, as for augmentation, depends on the step and on nothing before it
        runtime.reseed(f"step {step}")
        try:
            pixels, z, *both = (tensor.to(runtime.device, non_blocking=True) for tensor in batch)
            labels, z_labels = both or (None, None)
            return game.step(to_images(pixels), labels, z, z_labels, step), told
        except (RuntimeError, MemoryError) as error:
            # the other ranks are in the middle of the pass
            if not is_out_of_memory(error) or runtime.world_size > 1:
                raise
            failed = error.with_traceback(None)  # which would keep the failed pass alive
        told = game.back_off(len(batch[0]))
        if told is None:
            raise failed


def is_finite(game: Game) -> bool:
    """Whether every weight of both networks is finite; an update may spoil them although its losses were."""
    networks = (game.generator, game.discriminator)
    return all(bool(torch.isfinite(weight).all()) for network in networks for weight in network.parameters())


def steer(
    game: Game, store: ImageStore, config: GANTrainConfig, runtime: Runtime, step: int, losses: Mapping[str, float]
) -> None:
    """Once in a while, set the strength of the augmentation by what the discriminator thinks of held-out images.

    Where there are none, there are few images at all: it rises to what such sets usually need.

    Args:
        step: the one that has just been done.
        losses: its losses.
    """
    if config.augment != "auto" or step % _STEER_INTERVAL:
        return
    n, held_out = config.batch_size, store.held_out
    passed = _STEER_INTERVAL * game.rows(n)
    if held_out is None:
        game.strength.p = min(_BLIND, game.strength.p + passed / RAMP)
        return
    chosen = philox(config.seed, HELD_OUT, step).integers(len(held_out), size=n)
    chosen = np.array_split(chosen, runtime.world_size)[runtime.rank]
    images = to_images(torch.from_numpy(held_out.images[chosen]).to(runtime.device))
    labels = None if held_out.labels is None else torch.from_numpy(held_out.labels[chosen]).to(runtime.device)
    game.strength.observe(losses["d_real"], game.judge(images, labels), losses["d_fake"], images=passed)

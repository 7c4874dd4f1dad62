"""What a step trains on: real images, latents and the labels of both, as pure functions of seed and step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.image.config import GANTrainConfig
from genkit.image.game import Game
from genkit.image.noise import LABEL, batch_latents, philox
from genkit.image.store import ImageStore
from genkit.runtime.manager import Runtime, is_out_of_memory
from genkit.training.ahead import Batch


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
    """One step of both networks on a batch of `training_batch`, in more parts where memory is short.

    Returns:
        the losses, and what is to be told of the memory.

    Raises:
        RuntimeError: out of memory even with two images at a time, or on one of several ranks.
    """
    told = None
    while True:
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


def to_images(pixels: Tensor) -> Tensor:
    """Pixels (N, H, W, C) to images (N, C, H, W) in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

"""The torch engine: the reference, and the one for accelerators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.image.engines import ImageEvent, ImageRequest
from genkit.image.models.networks import Generator
from genkit.runtime.manager import Runtime

BATCH = 64


class TorchImageEngine:
    """Draws with a generator in eval mode, so that a picture depends on its seed alone."""

    def __init__(self, model: Generator, runtime: Runtime) -> None:
        self.model = model.to(runtime.device).eval()
        self.runtime = runtime

    def generate(self, requests: Iterable[ImageRequest]) -> Iterator[ImageEvent]:
        """Yield one event a request; at most `BATCH` pictures are in memory."""
        waiting = iter(requests)
        index = 0
        while batch := list(islice(waiting, BATCH)):
            z = np.stack([request.z for request in batch])  # (N, nz)
            labels = np.array([request.label for request in batch]) if self.model.config.classes else None  # (N,)
            for request, pixels in zip(batch, draw(self.model, z, labels, self.runtime), strict=True):
                yield ImageEvent(index, request.seed, pixels, request.z, request.label)
                index += 1


@torch.inference_mode()
def draw(
    model: Generator, z: NDArray[np.float32], labels: NDArray[np.int64] | None, runtime: Runtime
) -> NDArray[np.uint8]:
    """Latents (N, nz), and labels (N,) where the model has classes, to pixels (N, H, W, C)."""
    y = None if labels is None else torch.from_numpy(labels).to(runtime.device)
    with runtime.autocast():
        images = model(torch.from_numpy(z).to(runtime.device), y)
    return to_pixels(images)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [-1, 1] to uint8 (N, H, W, C), rounded."""
    levels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_images(pixels: Tensor) -> Tensor:
    """The inverse: pixels uint8 (N, H, W, C) to images (N, C, H, W) in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

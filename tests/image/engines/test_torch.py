"""A seed draws one picture, in whatever company."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from genkit.image.engines import ImageRequest
from genkit.image.engines.torch import BATCH, TorchImageEngine, to_pixels
from genkit.image.modelconfig import DCGANConfig
from genkit.image.models.dcgan import Generator, reestimate_batch_norm
from genkit.image.noise import latents
from genkit.runtime.device import Hardware, resolve
from genkit.runtime.manager import Runtime


def request(seed: int) -> ImageRequest:
    return ImageRequest(seed, latents(seed, 16))


@pytest.fixture
def engine() -> Iterator[TorchImageEngine]:
    torch.manual_seed(0)
    generator = Generator(DCGANConfig(size=32, nz=16, ngf=4))
    reestimate_batch_norm(generator, [(torch.randn(64, 16), None) for _ in range(4)])
    with Runtime(resolve("cpu", task="image", hardware=Hardware())) as runtime:
        yield TorchImageEngine(generator, runtime)


def test_one_event_a_request_in_order(engine: TorchImageEngine) -> None:
    seeds = [5, 2**64 - 1, 5, 0]
    events = list(engine.generate(request(seed) for seed in seeds))
    assert [(e.index, e.seed) for e in events] == list(enumerate(seeds))
    assert all(e.pixels.shape == (32, 32, 3) and e.pixels.dtype == np.uint8 for e in events)
    assert np.array_equal(events[0].pixels, events[2].pixels)
    assert not np.array_equal(events[0].pixels, events[3].pixels)


def test_a_picture_does_not_depend_on_its_batch(engine: TorchImageEngine) -> None:
    """Over the edge of a batch, alone, and in another order; rounding may move a level by one."""
    n = BATCH + 3
    together = [e.pixels.astype(int) for e in engine.generate(request(i) for i in range(n))]
    backwards = [e.pixels.astype(int) for e in engine.generate(request(n - 1 - i) for i in range(n))][::-1]
    alone = [next(engine.generate([request(i)])).pixels.astype(int) for i in range(n)]
    assert len(together) == n
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert max(np.abs(a - b).max(), np.abs(a - c).max()) <= 1


def test_requests_are_taken_as_they_are_needed(engine: TorchImageEngine) -> None:
    taken = 0

    def endless() -> Iterator[ImageRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield request(taken)

    next(engine.generate(endless()))
    assert taken == BATCH


def test_levels() -> None:
    images = torch.tensor([-1.0, 1.0, 0.0, -1 + 2 / 255, 5.0]).view(1, 1, 1, 5)
    assert to_pixels(images)[0, 0, :, 0].tolist() == [0, 255, 128, 1, 255]

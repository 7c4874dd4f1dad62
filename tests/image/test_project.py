"""The latent of an image: near where it was drawn from, of the right class, and never worse than a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.image import project as module
from genkit.image.engines.torch import draw, to_images
from genkit.image.features import available
from genkit.image.models.store import load_generator
from genkit.image.noise import latents, seeded_latents
from genkit.image.project import STARTS, distances, features, project
from genkit.runtime.device import Hardware, resolve
from genkit.runtime.manager import Runtime

Save = Callable[..., Path]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(resolve("cpu", engine="torch", task="image", hardware=Hardware())) as entered:
        yield entered


def test_distance_is_a_mean_over_resolutions() -> None:
    goal = torch.zeros(1, 1, 8, 8)
    chequered = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(4, 4)[None, None]
    images = torch.cat([goal, goal + 1, chequered])
    # 8x8 and 4x4; the pattern of single pixels is gone from the coarser one
    assert distances(images, goal).tolist() == [0.0, 0.5, 0.25]
    assert distances(torch.ones(1, 1, 32, 32), -torch.ones(1, 1, 32, 32)).tolist() == [1.0]


def test_colours_that_cannot_be_seen_do_not_count() -> None:
    clear, other = -torch.ones(1, 4, 8, 8), -torch.ones(1, 4, 8, 8)
    other[:, :3] = 1
    assert distances(clear, other).item() == 0.0
    other[:, 3] = 0
    assert distances(clear, other).item() > 0.1


def test_it_comes_nearer_than_any_start(save_generator: Save, runtime: Runtime) -> None:
    model = load_generator(save_generator())
    target = draw(model, latents(10**6, 8)[None], None, runtime)[0]
    starts = torch.from_numpy(seeded_latents(range(512), 8))
    with torch.inference_mode():
        best = distances(model(starts), to_images(torch.tensor(target[None]))).min().item()
    seen: list[float] = []
    found = project(model, target, steps=60, runtime=runtime, on_step=lambda step, loss: seen.append(loss))
    assert found.distance < best / 3
    assert len(seen) == 60
    assert seen == sorted(seen, reverse=True)  # the best so far
    assert np.array_equal(draw(model, found.z[None], None, runtime)[0], found.pixels)
    assert 1 < np.linalg.norm(found.z) < 6  # of sqrt(8)
    again = project(model, target, steps=60, runtime=runtime)
    assert np.array_equal(found.z, again.z)


def test_one_step_is_enough_to_return_something(save_generator: Save, runtime: Runtime) -> None:
    model = load_generator(save_generator())
    target = draw(model, latents(3, 8)[None], None, runtime)[0]
    found = project(model, target, steps=1, runtime=runtime)
    assert np.abs(found.z - latents(3, 8)).max() < 0.2  # it is among the starts
    assert found.distance < 0.02


def test_all_classes_are_tried_or_the_one_named(save_generator: Save, runtime: Runtime) -> None:
    model = load_generator(save_generator(arch="plus", channels=4, classes=["a", "b", "c"]))
    target = draw(model, latents(10**6, 8)[None], np.array([1]), runtime)[0]
    found = project(model, target, steps=40, runtime=runtime)
    assert (found.label, found.pixels.shape) == (1, (32, 32, 4))
    other = project(model, target, steps=40, runtime=runtime, label=2)
    assert other.label == 2
    assert other.distance > found.distance


def test_every_class_has_a_start(save_generator: Save, runtime: Runtime) -> None:
    model = load_generator(save_generator(arch="plus", classes=list("abcdef")))
    target = draw(model, latents(0, 8)[None], np.array([0]), runtime)
    z, y = module._starts(model, to_images(torch.tensor(target)), runtime, 0, None)
    assert z.shape == (STARTS, 8)
    assert y is not None
    assert set(y.tolist()) == set(range(6))
    assert y[0] == 0  # the target itself is one


@pytest.mark.skipif(not available(), reason="needs the package with the weights")
def test_features_tell_pictures_apart(runtime: Runtime) -> None:
    seen = features(runtime)
    rows = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    images = torch.cat([rows, rows * 0.95, noise]).requires_grad_(True)
    near, far = torch.cosine_similarity(seen(images)[1:], seen(images)[:1])
    assert near > 0.95 > far
    far.backward()
    assert images.grad is not None
    assert images.grad[2].abs().max() > 0
    transparent = torch.cat([noise, -torch.ones(1, 1, 32, 32)], dim=1)
    assert torch.allclose(seen(transparent), seen(torch.ones(1, 1, 32, 32)), atol=1e-5)


@pytest.mark.skipif(not available(), reason="needs the package with the weights")
def test_features_are_those_of_the_metrics(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from genkit.image.features import SIDE, FeatureNet

    monkeypatch.setattr(module, "_SIDE", SIDE)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    np.testing.assert_allclose(features(runtime)(to_images(torch.tensor(pixels))), FeatureNet()(pixels), atol=1e-3)

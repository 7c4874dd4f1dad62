"""What a judge says of generators whose pictures are known."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

import genkit.image.judge as judging
from genkit.image.handed import is_handed
from genkit.image.judge import FEWEST, IMAGES, Judge, affordable_images
from genkit.image.metrics import sliced_wasserstein
from genkit.image.modelconfig import DCGANConfig
from genkit.image.models.dcgan import Generator
from genkit.image.store import ImageStore
from genkit.runtime.device import Hardware, resolve
from genkit.runtime.manager import Runtime

Pixels = NDArray[np.uint8]


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(resolve("cpu", "fp32", task="train-gan", hardware=Hardware()))


@pytest.fixture
def ready() -> Generator:
    return Generator(DCGANConfig(size=32, nz=8, ngf=4, ndf=4)).eval()


def scenes(n: int, seed: int) -> Pixels:
    """Soft blobs of any colour, no two alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 32
    images = np.full((n, 32, 32, 3), 0.5)
    for _ in range(4):
        cx, cy, size = rng.random((3, n, 1, 1))
        cover = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.05 + 0.2 * size) ** 2)[..., None]
        images = images * (1 - cover) + rng.random((n, 1, 1, 3)) * cover
    return (images * 255).round().astype(np.uint8)


def store_of(images: Pixels, held_out: Pixels | None = None) -> ImageStore:
    kept = None if held_out is None else ImageStore(held_out, None)  # type: ignore[arg-type]
    return ImageStore(images, None, None, kept)  # type: ignore[arg-type]


def drawing(monkeypatch: pytest.MonkeyPatch, pictures: Pixels) -> None:
    """Whatever the generator, these are drawn, from the first on."""
    place = 0

    def draw(model: object, z: NDArray[np.float32], labels: object, runtime: object) -> Pixels:
        nonlocal place
        place += len(z)
        return np.take(pictures, np.arange(place - len(z), place), axis=0, mode="wrap")

    monkeypatch.setattr(judging, "draw", draw)


@pytest.fixture(autouse=True)
def by_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "available", lambda: False)


def test_new_real_images_are_good_and_copies_are_found_out(
    runtime: Runtime, ready: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = scenes(300, 1)
    judge = Judge(store_of(training, scenes(100, 2)), runtime, images=100, flip=False)
    drawing(monkeypatch, scenes(100, 3))
    new = judge.measure(ready)
    assert judge.metric == "swd"
    assert new["swd"] < 1.2 * judge.floor
    assert new["diversity"] == pytest.approx(1, abs=0.1)
    assert new["distinct"] == pytest.approx(1, abs=0.15)
    assert new["copies"] < 0.15
    drawing(monkeypatch, training)
    assert judge.measure(ready)["copies"] > 0.9


@pytest.mark.parametrize("flip", [False, True])
def test_mirrored_copies_count_where_mirrored_images_are_trained_on(
    runtime: Runtime, ready: Generator, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    training = scenes(300, 1)
    judge = Judge(store_of(training), runtime, images=100, flip=flip)
    drawing(monkeypatch, training[:, :, ::-1])
    assert (judge.measure(ready)["copies"] > 0.9) is flip


def test_one_picture_is_no_variety(runtime: Runtime, ready: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(store_of(scenes(200, 1)), runtime, images=100, flip=False)
    drawing(monkeypatch, scenes(1, 2))
    found = judge.measure(ready)
    assert (found["diversity"], found["distinct"]) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_held_out_images_judge_if_they_are_enough(runtime: Runtime) -> None:
    grey = np.full((300, 32, 32, 3), 128, np.uint8)
    assert (Judge(store_of(scenes(300, 1), grey), runtime, images=100, flip=False)._real == 128).all()
    few = Judge(store_of(scenes(300, 1), grey[:20]), runtime, images=100, flip=False)
    assert len(few._real) == 100
    assert not (few._real == 128).all()


def test_measuring_twice_finds_the_same(runtime: Runtime, ready: Generator) -> None:
    one, other = (Judge(store_of(scenes(100, 1)), runtime, images=40, flip=True) for _ in range(2))
    assert one.measure(ready) == one.measure(ready) == other.measure(ready)


def test_large_images_are_not_all_in_memory(runtime: Runtime) -> None:
    many = np.broadcast_to(scenes(1, 1).repeat(8, 1).repeat(8, 2), (600, 256, 256, 3))  # 118 MB if it were copied
    tracemalloc.start()
    Judge(store_of(many), runtime, images=8, flip=True)
    is_handed(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_features_decide_where_they_are_to_be_had(
    runtime: Runtime, ready: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "available", lambda: True)
    monkeypatch.setattr(judging, "FeatureNet", lambda device: lambda pixels: pixels.reshape(len(pixels), -1) / 255)
    judge = Judge(store_of(scenes(200, 1)), runtime, images=100, flip=False)
    assert judge.metric == "kd"
    drawing(monkeypatch, scenes(100, 2))
    near = judge.measure(ready)["kd"]
    drawing(monkeypatch, scenes(1, 2))
    assert 10 * abs(near) < judge.measure(ready)["kd"]


def test_a_short_budget_gets_fewer_images(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(scenes(50, 1))
    assert affordable_images(store, runtime, 1.0) == IMAGES  # pixels alone cost next to nothing
    monkeypatch.setattr(judging, "available", lambda: True)
    monkeypatch.setattr(judging, "FeatureNet", lambda device: lambda pixels: None)
    clock = iter((0.0, 0.32) * 4)  # 10 ms an image
    monkeypatch.setattr(judging, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = [affordable_images(store, runtime, seconds) for seconds in (60.0, 600.0, 6000.0)]
    assert found == [FEWEST, 300, IMAGES]
    assert affordable_images(store, runtime, None) == IMAGES


def test_the_floor_of_ordered_classes_is_that_of_mixed_halves(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "available", lambda: False)
    dark, light = scenes(60, 0) // 4, 255 - scenes(60, 1) // 4
    ordered = Judge(store_of(np.concatenate([dark, light])), runtime, images=120, flip=False)
    assert ordered.floor < 0.2 * sliced_wasserstein(dark, light)

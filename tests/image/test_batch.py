"""What a step trains on, and what it does where memory is short."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from genkit.image.augment import RAMP
from genkit.image.batch import play, steer, training_batch
from genkit.image.config import GANTrainConfig
from genkit.image.game import Game
from genkit.image.modelconfig import DCGANConfig, ModelConfig, PlusConfig
from genkit.image.store import ImageStore
from genkit.runtime.device import Hardware, resolve
from genkit.runtime.manager import Runtime

CONFIG = GANTrainConfig(
    size=32, channels=3, ngf=4, ndf=4, nz=8, batch_size=8, flip=False, loss="bce", regularizer="none", lr=2e-4,
    beta1=0.5, beta2=0.999, augment="off",
)  # fmt: skip
LABELS = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1], np.int64)  # one in ten of class 0


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(resolve("cpu", "fp32", task="train-gan", hardware=Hardware()))


def store(report: object = None, labels: np.ndarray | None = LABELS) -> ImageStore:
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    return ImageStore(images, report, labels)  # type: ignore[arg-type]


def game_of(shape: ModelConfig, runtime: Runtime) -> Game:
    torch.manual_seed(0)
    return Game(CONFIG, shape, runtime)


PLUS = PlusConfig(size=32, nz=8, ngf=4, ndf=4, classes=("cat", "dog"))
DCGAN = DCGANConfig(size=32, nz=8, ngf=4, ndf=4)


def test_fake_images_are_of_the_classes_of_the_data_as_often() -> None:
    counts = np.zeros(2)
    for step in range(500):
        pixels, z, labels, z_labels = training_batch(CONFIG, store(), step)
        assert (len(pixels), z.shape, len(labels)) == (8, (8, 8), 8)
        counts += np.bincount(z_labels.numpy(), minlength=2)
    assert counts[0] / counts.sum() == pytest.approx(0.1, abs=0.015)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again, other = (training_batch(CONFIG.replace(seed=seed), store(), 7) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first[:2], other[:2]))
    assert len(training_batch(CONFIG, store(labels=None), 7)) == 2


def short_of_memory(game: Game, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The discriminator takes at most so many images at a time."""
    real: Callable[..., torch.Tensor] = game._judge

    def judge(images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("out of memory")
        return real(images, labels)

    monkeypatch.setattr(game, "_judge", judge)


@pytest.mark.parametrize(("layout", "most"), [("plus", 8), ("dcgan", 5)])  # plus judges real and fake ones together
def test_out_of_memory_a_step_learns_from_fewer_images(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, layout: str, most: int
) -> None:
    shape = {"plus": PLUS, "dcgan": DCGAN}[layout]
    game = game_of(shape, runtime)
    short_of_memory(game, monkeypatch, most)
    batch = training_batch(CONFIG, store(), 0)
    _, told = play(game, batch, runtime, 0)
    assert told == "out of memory: a step learns from 4 images instead of 8 from here on"
    assert game.rows(8) == 4
    assert play(game, batch, runtime, 1)[1] is None  # said once
    again = game_of(shape, runtime)
    again.restore(game.to_dict())
    assert again.rows(8) == 4


def test_memory_for_not_even_two_images_is_an_error(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    game = game_of(DCGAN, runtime)
    short_of_memory(game, monkeypatch, most=1)
    with pytest.raises(torch.OutOfMemoryError):
        play(game, training_batch(CONFIG, store(), 0), runtime, 0)


def test_other_errors_are_not_taken_for_memory(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    game = game_of(DCGAN, runtime)
    monkeypatch.setattr(game, "_judge", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        play(game, training_batch(CONFIG, store(), 0), runtime, 0)


def test_strength_of_augmentation_comes_back(runtime: Runtime) -> None:
    game, again = game_of(PLUS, runtime), game_of(PLUS, runtime)
    game.strength.observe(train=1.0, held_out=0.0, fake=-0.2, images=3000)
    again.restore(game.to_dict())
    assert again.strength == game.strength


LOSSES = {"d_real": 2.0, "d_fake": 0.0}


def steered(game: Game, images: ImageStore, augment: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> float:
    """The strength after eight steps in which held-out images look fake."""
    monkeypatch.setattr(game, "judge", lambda images, labels: 0.0)
    for step in range(1, 9):
        steer(game, images, CONFIG.replace(augment=augment), runtime, step, LOSSES)
    return game.strength.p


def test_augmentation_is_steered_by_held_out_images(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = store()
    images = ImageStore(held_out.images, None, LABELS, held_out)  # type: ignore[arg-type]
    game = game_of(PLUS, runtime)
    game.strength.gap = 0.9
    assert steered(game, images, "auto", runtime, monkeypatch) == pytest.approx(2 * 4 * 8 / RAMP)
    assert game.strength.gap > 0.9
    assert steered(game_of(PLUS, runtime), images, "off", runtime, monkeypatch) == 0.0


def test_without_held_out_images_it_rises_to_what_few_images_need(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = game_of(PLUS, runtime)
    assert steered(game, store(), "auto", runtime, monkeypatch) == pytest.approx(2 * 4 * 8 / RAMP)
    game.strength.p = 0.599
    assert steered(game, store(), "auto", runtime, monkeypatch) == 0.6


def test_a_strength_that_is_given_stays(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    game = Game(CONFIG.replace(augment="0.3"), PLUS, runtime)
    assert steered(game, store(), "0.3", runtime, monkeypatch) == 0.3

"""What the settings that are left open become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

from genkit.config import options
from genkit.image import recipe
from genkit.image.config import GANTrainConfig
from genkit.image.modelconfig import DCGANConfig, PlusConfig
from genkit.image.recipe import LEFT_OPEN, as_begun, flops_an_image, settle, shape_of
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """On a machine whose matrix products run at 900 GFLOP/s, as two cores with bf16."""
    monkeypatch.setattr(recipe, "matmul_rate", lambda runtime: 900e9)
    with Runtime(resolve("cpu", "fp32", task="train-gan")) as entered:
        yield entered


def settled(runtime: Runtime, classes: tuple[str, ...] = (), **settings: Any) -> GANTrainConfig:
    report: Any = SimpleNamespace(channels=3, handed=False, classes=classes)
    return settle(GANTrainConfig(**settings), report, runtime)


@pytest.mark.parametrize("arch", ["plus", "dcgan"])
def test_nothing_is_left_open(runtime: Runtime, arch: str) -> None:
    config = settled(runtime, arch=arch)
    left = {name for name, value in LEFT_OPEN.items() if getattr(config, name) == value}
    # plus has its own norm, augments as overfitting asks, and smooths as measures best
    assert left == ({"d_norm", "augment", "smoothing"} if arch == "plus" else set())
    assert set(LEFT_OPEN) <= {field.name for field, _ in options(GANTrainConfig)} <= {f.name for f in fields(config)}
    assert {name: getattr(GANTrainConfig(), name) for name in LEFT_OPEN} == LEFT_OPEN


def test_dcgan_is_the_example(runtime: Runtime) -> None:
    config = settled(runtime, arch="dcgan", classes=("cat", "dog"))
    assert (config.batch_size, config.lr, config.beta1, config.beta2) == (64, 2e-4, 0.5, 0.999)
    assert (config.loss, config.regularizer, config.augment, config.schedule) == ("bce", "none", "off", "constant")
    assert shape_of(config, ("cat", "dog")) == DCGANConfig()


def test_what_the_user_says_stays(runtime: Runtime) -> None:
    config = settled(runtime, ngf=24, lr=1e-3, loss="hinge", beta1=0.5, flip=False, channels=3)
    assert (config.ngf, config.lr, config.loss, config.beta1, config.flip) == (24, 1e-3, "hinge", 0.5, False)


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({"budget": 20.0}, 16),
        ({"budget": 40.0}, 24),
        ({"budget": 60.0}, 32),
        ({"budget": 600.0}, 32),
        ({"budget": 1200.0}, 48),
        ({"budget": 3600.0}, 96),
        ({"budget": 1200.0, "size": 32}, 128),
        ({"budget": 1200.0, "size": 256}, 24),
        ({"images": 300_000}, 128),  # as long as it takes
        ({"steps": 100}, 16),
    ],
)
def test_the_width_goes_by_budget_and_size(runtime: Runtime, settings: dict[str, Any], width: int) -> None:
    config = settled(runtime, **settings)
    assert (config.ngf, config.ndf) == (width, width)
    assert settled(runtime, **settings, ngf=20).ngf == 20


def test_a_training_step_of_the_example_takes_two_gigaflops(runtime: Runtime) -> None:
    """2.29 at 64 pixels: eight passes through D and three through G, two operations a multiplication."""
    assert flops_an_image(settled(runtime, arch="dcgan"), ()) == pytest.approx(2.289e9, rel=1e-3)


def test_one_pass_is_cheaper_than_two(runtime: Runtime) -> None:
    costs = [flops_an_image(settled(runtime, ngf=32, ndf=32, loss=loss), ()) for loss in ("bce", "hinge")]
    assert 0.75 < costs[0] / costs[1] < 0.85


def test_classes_are_part_of_plus(runtime: Runtime) -> None:
    config = settled(runtime, ("cat", "dog"), size=32, ngf=16, ndf=16)
    shape = shape_of(config, ("cat", "dog"))
    assert shape == PlusConfig(size=32, nz=128, ngf=16, ndf=16, classes=("cat", "dog"))


def test_a_resumed_run_takes_what_it_began_with(runtime: Runtime) -> None:
    began = settled(runtime, budget=1200.0)
    again = as_begun(GANTrainConfig(budget=60.0), {"config": began.to_dict()})
    assert again == began.replace(budget=60.0)
    assert as_begun(GANTrainConfig(), {}) == GANTrainConfig()

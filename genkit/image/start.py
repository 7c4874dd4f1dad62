"""What a run begins with: its networks, their optimizers and the state that checkpoints hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from genkit.image.config import GANTrainConfig
from genkit.image.game import Game
from genkit.image.modelconfig import DCGANConfig, ModelConfig, PlusConfig
from genkit.image.models.networks import Generator
from genkit.runtime.manager import Runtime
from genkit.training.schedule import Budget
from genkit.training.state import TrainState

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset({
    "budget", "steps", "images", "patience", "out", "compile", "tensorboard", "data_license", "on_bad_image",
    "eval_interval", "eval_images", "sample_interval", "save_interval",
})  # fmt: skip
OUT_OF_MEMORY = "use a smaller --batch-size, --ngf or --ndf"
_LEFT_OPEN = ("channels", "flip")  # what the images say


def as_begun(config: GANTrainConfig, record: Mapping[str, Any]) -> GANTrainConfig:
    """`config` with what it leaves open as it was settled when the run of `record` began."""
    began = record.get("config")
    if not isinstance(began, dict):
        return config
    return config.replace(**{n: began[n] for n in _LEFT_OPEN if getattr(config, n) is None and n in began})


def budget_of(config: GANTrainConfig) -> Budget:
    """When the run ends.

    Raises:
        UsageError: two flags say when.
    """
    return Budget.of(budget=config.budget, steps=config.steps, units=config.images, unit="images")


def remedy_of(config: GANTrainConfig) -> str:
    """What helps where training breaks down again and again."""
    if config.arch == "dcgan" and config.d_norm == "batch":
        return "use --d-norm spectral --loss hinge and --force, or a smaller --d-lr"
    return f"use a lower --lr (now {config.lr:g}) and --force"


def shape_of(config: GANTrainConfig, classes: tuple[str, ...]) -> ModelConfig:
    """The networks that settled settings ask for; those of the example take no classes."""
    sizes: dict[str, Any] = {name: getattr(config, name) for name in ("size", "channels", "nz", "ngf", "ndf")}
    if config.arch == "dcgan":
        return DCGANConfig(**sizes, d_norm=config.d_norm)
    return PlusConfig(**sizes, classes=classes)


def begin(config: GANTrainConfig, shape: ModelConfig, runtime: Runtime) -> tuple[Game, Generator, TrainState]:
    """The two networks, set by the run's seed, the averaged generator, and all of it as a state."""
    torch.manual_seed(config.seed)
    game = Game(config, shape, runtime)
    average = copy.deepcopy(game.generator).requires_grad_(False)
    state = TrainState(
        modules={"generator": game.generator, "discriminator": game.discriminator, "average": average},
        optimizers=game.optimizers,
        scaler=runtime.scaler,
    )
    return game, average, state

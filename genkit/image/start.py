"""What a run begins with: its networks, their optimizers and the state that checkpoints hold."""

from __future__ import annotations

import copy

import torch

from genkit.image.config import GANTrainConfig
from genkit.image.game import Game
from genkit.image.modelconfig import ModelConfig
from genkit.image.models.networks import Generator
from genkit.runtime.manager import Runtime
from genkit.training.state import TrainState

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset({
    "budget", "steps", "images", "patience", "out", "compile", "tensorboard", "data_license", "on_bad_image",
    "eval_interval", "eval_images", "sample_interval", "save_interval",
})  # fmt: skip
OUT_OF_MEMORY = "use a smaller --batch-size, --ngf or --ndf"


def remedy_of(config: GANTrainConfig) -> str:
    """What helps where training breaks down again and again."""
    if config.arch == "dcgan" and config.d_norm == "batch":
        return "use --d-norm spectral --loss hinge and --force, or a smaller --d-lr"
    return f"use a lower --lr (now {config.lr:g}) and --force"


def begin(config: GANTrainConfig, shape: ModelConfig, runtime: Runtime) -> tuple[Game, Generator, TrainState]:
    """The two networks, set by the run's seed, the averaged generator, and all of it as a state."""
    torch.manual_seed(config.seed)
    game = Game(config, shape, runtime)
    average = copy.deepcopy(game.generator).requires_grad_(False)
    runtime.share_statistics(game.generator, game.discriminator)  # the average draws on one rank alone
    state = TrainState(
        modules={"generator": game.generator, "discriminator": game.discriminator, "average": average},
        optimizers=game.optimizers,
        scaler=runtime.scaler,
    )
    return game, average, state

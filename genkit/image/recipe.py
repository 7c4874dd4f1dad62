"""What the settings that are left open become: those of the layout, and a size that suits budget and machine.

The rules are short because they were measured; benchmarks/RESULTS.md has the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from genkit.image.config import GANTrainConfig
from genkit.image.data import settled
from genkit.image.losses import LOSSES
from genkit.image.modelconfig import DCGANConfig, ModelConfig, PlusConfig
from genkit.image.models.networks import discriminator_of, generator_of
from genkit.image.report import ImageReport
from genkit.runtime.manager import Runtime
from genkit.training.schedule import Budget
from genkit.training.speed import matmul_rate

# the settings that `settle` fills in, and what leaves them open
LEFT_OPEN: dict[str, Any] = {
    "nz": 0, "ngf": 0, "ndf": 0, "d_norm": "auto", "smoothing": "auto", "loss": "auto", "regularizer": "auto",
    "gamma": None, "reg_interval": 0, "augment": "auto", "batch_size": 0, "lr": 0.0, "beta1": None, "beta2": None,
    "schedule": "auto", "channels": None, "flip": None,
}  # fmt: skip
_OF_LAYOUT: dict[str, dict[str, Any]] = {
    # the PyTorch example, to the letter
    "dcgan": {
        "nz": 100, "ngf": 64, "ndf": 64, "d_norm": "batch", "smoothing": "off", "loss": "bce",
        "regularizer": "none", "gamma": 1.0, "reg_interval": 16, "augment": "off", "batch_size": 64, "lr": 2e-4,
        "beta1": 0.5, "beta2": 0.999, "schedule": "constant",
    },
    "plus": {
        "nz": 128, "loss": "bce", "regularizer": "none", "gamma": 1.0, "reg_interval": 16, "batch_size": 32,
        "lr": 1.6e-3, "beta1": 0.0, "beta2": 0.9, "schedule": "linear",
    },
}  # fmt: skip
WIDTHS = (16, 24, 32, 48, 64, 96, 128)
# images that a budget must show, or a narrower network learns more in it; one narrower than USUAL soon learns no more
USUAL, FEWEST, IMAGES = 32, 40_000, 300_000  # FEWEST to a network of up to USUAL filters, IMAGES to a wider one
_EFFICIENCY = 0.45  # share of the matmul rate that a training step reaches


def as_begun(config: GANTrainConfig, record: Mapping[str, Any]) -> GANTrainConfig:
    """`config` with what it leaves open as it was settled when the run of `record` began."""
    began = record.get("config")
    if not isinstance(began, dict):
        return config
    values = config.to_dict()
    return config.replace(**{n: began[n] for n, left in LEFT_OPEN.items() if values[n] == left and n in began})


def settle(config: GANTrainConfig, report: ImageReport, runtime: Runtime) -> GANTrainConfig:
    """`config` with a value for every setting that it leaves open; equal on all ranks."""
    config = settled(config, report)  # what the images say
    found = _OF_LAYOUT[config.arch]
    config = config.replace(**{n: value for n, value in found.items() if getattr(config, n) == LEFT_OPEN[n]})
    if not (config.ngf and config.ndf):
        rate = matmul_rate(runtime) * _EFFICIENCY * runtime.ranks.world_size  # FLOP a second
        width = auto_width(config, report.classes, rate)
        config = config.replace(ngf=config.ngf or width, ndf=config.ndf or width)
    return config


def budget_of(config: GANTrainConfig) -> Budget:
    """When the run ends.

    Raises:
        UsageError: two flags say when.
    """
    return Budget.of(budget=config.budget, steps=config.steps, units=config.images, unit="images")


def auto_width(config: GANTrainConfig, classes: tuple[str, ...], rate: float) -> int:
    """The widest networks that the budget shows enough images to.

    Args:
        rate: floating-point operations of training a second.
    """
    best = WIDTHS[0]
    for width in WIDTHS:
        wide = config.replace(ngf=config.ngf or width, ndf=config.ndf or width)
        a_step = flops_an_image(wide, classes) * config.batch_size / rate
        images = budget_of(config).steps_to_take(config.batch_size, a_step) * config.batch_size
        if images >= (FEWEST if width <= USUAL else IMAGES):
            best = width
    return best


def shape_of(config: GANTrainConfig, classes: tuple[str, ...]) -> ModelConfig:
    """The networks that settled settings ask for; those of the example take no classes."""
    sizes: dict[str, Any] = {name: getattr(config, name) for name in ("size", "channels", "nz", "ngf", "ndf")}
    if config.arch == "dcgan":
        return DCGANConfig(**sizes, d_norm=config.d_norm)
    return PlusConfig(**sizes, classes=classes)


def flops_an_image(config: GANTrainConfig, classes: tuple[str, ...]) -> float:
    """Floating-point operations of a training step for each real image, penalties left out.

    A backward pass costs two forward ones, or one where only the image's gradient is wanted.
    """
    shape = shape_of(config, classes)
    with torch.device("meta"):
        generator, discriminator = generator_of(shape), discriminator_of(shape)
        y = torch.zeros(2, dtype=torch.long) if shape.classes else None
        with FlopCounterMode(display=False) as drawing:
            images = generator(torch.zeros(2, shape.nz), y)
        with FlopCounterMode(display=False) as judging:
            discriminator(images, y)
    at_once = config.d_norm != "batch" and LOSSES[config.loss].turn is not None
    passes = 6 if at_once else 8
    return float(3 * drawing.get_total_flops() + passes * judging.get_total_flops()) / 2

"""An image model on disk: `config.json` and the averaged generator in `model.safetensors`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from genkit.errors import InputError
from genkit.files import read_json
from genkit.image.modelconfig import read_model_config
from genkit.image.models.networks import Discriminator, Generator, generator_of
from genkit.library import CONFIG as CONFIG
from genkit.library import WEIGHTS as WEIGHTS
from genkit.training.weights import copy_weights, load_tensors


def load_generator(folder: Path) -> Generator:
    """The generator in `folder`, on the CPU in eval mode.

    Raises:
        InputError: missing, corrupt or unsafe files, or tensors that do not fit the config.
    """
    config = read_model_config(read_json(folder / CONFIG))
    tensors = load_tensors(folder / WEIGHTS)
    with torch.device("meta"):
        claimed = parameter_count(generator_of(config))
    held = sum(tensor.numel() for tensor in tensors.values())
    if claimed > held:  # before the memory for it is asked for
        raise InputError(f"{folder}: {CONFIG} speaks of {claimed:,} parameters, {WEIGHTS} holds {held:,}")
    generator = generator_of(config)
    copy_weights(generator, tensors, WEIGHTS)
    if not all(torch.isfinite(tensor).all() for tensor in generator.state_dict().values()):
        raise InputError(f"{folder / WEIGHTS} holds numbers that are not finite", "use another model")
    return generator.eval()


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(p.numel() for p in model.parameters())


def model_line(generator: Generator, discriminator: Discriminator) -> str:
    """`dcgan 64x64: generator 3,576,704 parameters, discriminator 2,765,568`"""
    c = generator.config
    return (
        f"{c.arch} {c.size}x{c.size}: generator {parameter_count(generator):,} parameters, "
        f"discriminator {parameter_count(discriminator):,}"
    )

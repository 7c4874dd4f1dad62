"""An image model on disk: `config.json` and the averaged generator in `model.safetensors`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from genkit.files import read_json
from genkit.image.config import DCGANConfig
from genkit.image.models.dcgan import Generator
from genkit.training.weights import load_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_generator(folder: Path) -> Generator:
    """The generator in `folder`, on the CPU in eval mode.

    Raises:
        InputError: missing, corrupt or unsafe files, or tensors that do not fit the config.
    """
    generator = Generator(DCGANConfig.from_dict(read_json(folder / CONFIG)))
    load_weights(generator, folder / WEIGHTS)
    return generator.eval()


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(p.numel() for p in model.parameters())

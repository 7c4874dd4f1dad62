"""Fixtures of the image half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from genkit.files import write_json
from genkit.image.modelconfig import read_model_config
from genkit.image.models.dcgan import reestimate_batch_norm
from genkit.image.models.networks import Generator, generator_of
from genkit.image.models.store import CONFIG, WEIGHTS
from genkit.training.weights import save_tensors


@pytest.fixture
def save_generator(tmp_path: Path) -> Callable[..., Path]:
    """Make a model directory whose images use all levels and differ, and no graph in it."""

    def save(name: str = "model", seed: int = 0, **shape: Any) -> Path:
        config = read_model_config({"arch": "dcgan", "size": 32, "nz": 8, "ngf": 4, "ndf": 4} | shape)
        torch.manual_seed(seed)
        generator = generator_of(config)
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)  # or what the latents say would fade from layer to layer
        labels = torch.arange(64) % len(config.classes) if config.classes else None
        batches = [(torch.randn(64, config.nz), labels) for _ in range(4)]
        reestimate_batch_norm(generator, batches)
        _strengthen(generator, batches[0][0])
        folder = tmp_path / name
        folder.mkdir()
        save_tensors(folder / WEIGHTS, generator.state_dict())
        write_json(folder / CONFIG, config.to_dict())
        return folder

    return save


@torch.no_grad()
def _strengthen(generator: Generator, z: torch.Tensor) -> None:
    """Scale the last convolution, so that what goes into tanh has a deviation of one."""
    classes = generator.config.classes
    y = torch.arange(len(z)) % len(classes) if classes else None
    last = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)][-1]
    made: list[torch.Tensor] = []
    with last.register_forward_hook(lambda module, inputs, output: made.append(output)):
        generator.eval()(z, y)
    last.weight.div_(made[0].std())

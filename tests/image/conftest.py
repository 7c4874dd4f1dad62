"""Fixtures of the image half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genkit.files import write_json
from genkit.image.modelconfig import DCGANConfig
from genkit.image.models.dcgan import Generator, reestimate_batch_norm
from genkit.image.models.store import CONFIG, WEIGHTS
from genkit.training.weights import save_tensors


@pytest.fixture
def save_generator(tmp_path: Path) -> Callable[..., Path]:
    """Make a model directory whose images use all levels and differ, and no graph in it."""

    def save(name: str = "model", seed: int = 0, **shape: int) -> Path:
        config = DCGANConfig(**({"size": 32, "nz": 8, "ngf": 4, "ndf": 4} | shape))
        torch.manual_seed(seed)
        generator = Generator(config)
        reestimate_batch_norm(generator, [torch.randn(64, config.nz) for _ in range(4)])
        with torch.no_grad():
            generator.main[-2].weight.mul_(20)  # the last convolution, before tanh
        folder = tmp_path / name
        folder.mkdir()
        save_tensors(folder / WEIGHTS, generator.state_dict())
        write_json(folder / CONFIG, config.to_dict())
        return folder

    return save

"""Training a GAN on two processes: the weights of one, whatever mixes the images of a batch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.training.weights import load_tensors

ROOT = Path(__file__).parents[1]
STEPS = 6
BASE = {"data": "pictures", "size": 32, "steps": STEPS, "seed": 3, "nz": 8, "ngf": 4, "ndf": 4, "batch_size": 8,
        "eval_images": 16, "eval_interval": 100, "sample_interval": 100, "save_interval": 100}  # fmt: skip
PRELUDE = f"""
import os, signal, sys
import torch
from genkit.errors import GenkitError
from genkit.image import augment, game, train
from genkit.image.config import GANTrainConfig
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.training.log import Loggers

train._LOG_INTERVAL = 1
BASE = {BASE!r}
def runtime():
    return Runtime(Placement("cpu", "fp32", "torch", ""), seed=3)
def run(runtime, out, resume=False, **changes):
    config = GANTrainConfig.from_dict(BASE | changes | {{"out": out}})
    return train.train_gan(config, runtime, Loggers(), resume=resume)
"""
# dcgan has batch-norm in both networks; plus a penalty, labels, pairs and augmentation
CASES = {
    "dcgan": {"arch": "dcgan"},
    "spectral": {"arch": "dcgan", "d_norm": "spectral", "loss": "hinge"},
    "plus": {"arch": "plus", "reg_interval": 2, "augment": "0.7"},
}

Start = Callable[..., list[subprocess.Popen[str]]]
Ranks = Callable[..., list[str]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty images of two classes."""
    for label in ("dark", "light"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        pixels = np.random.default_rng(len(label)).integers(0, 128, (20, 32, 32, 3), np.uint8)
        for i, image in enumerate(pixels + 127 * (label == "light")):
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "pictures" / label / f"{i:02d}.png")
    return tmp_path


def tensors(run: Path, step: int = STEPS) -> dict[str, dict[str, np.ndarray]]:
    """The weights and moments of the last checkpoint, by file."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    return {
        path.stem: {name: tensor.double().numpy() for name, tensor in load_tensors(path).items()}
        for path in folder.glob("*.safetensors")
    }


def distance(one: Path, other: Path, part: str) -> float:
    """How far the weights of two runs are apart, as a share of their norm."""
    first, second = tensors(one)[part], tensors(other)[part]
    assert first.keys() == second.keys()
    apart = sum(float(np.square(tensor - second[name]).sum()) for name, tensor in first.items())
    return float((apart / sum(float(np.square(tensor).sum()) for tensor in first.values())) ** 0.5)


def losses(run: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[line["d_loss"], line["g_loss"], line["penalty"]] for line in lines if "d_loss" in line]


def every(cases: dict[str, dict[str, object]]) -> str:
    runs = "".join(f"    run(it, {name!r}, **{changes!r})\n" for name, changes in cases.items())
    return f"{PRELUDE}with runtime() as it:\n{runs}"


def test_two_processes_give_the_weights_of_one(told_by_ranks: Ranks, pictures: Path) -> None:
    told_by_ranks(every({f"alone-{name}": changes for name, changes in CASES.items()}), count=1)
    told_by_ranks(every(CASES))
    for name in CASES:
        one, two = pictures / f"alone-{name}", pictures / name
        assert len(losses(two)) == STEPS
        np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4, atol=1e-6)
        apart = {part: distance(one, two, part) for part in ("generator", "discriminator", "average")}
        assert {part: found for part, found in apart.items() if found > 1e-4} == {}
        # and by no means the weights of a run that has half of the images
    assert tensors(pictures / "plus")["generator"].keys() == tensors(pictures / "alone-plus")["generator"].keys()

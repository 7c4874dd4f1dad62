"""The models that come with genkit: whole, small enough, documented, and good."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genkit import library, load
from genkit.pipeline import ImagePipeline
from genkit.text.models.store import load_model
from genkit.text.tokenizer import Tokenizer

SHELF = Path(__file__).parents[1] / "weights"
TALE = (
    "Once upon a time, there was a little girl named Lily. She liked to play in the garden with her dog. "
    'One day, the dog ran away. Lily was very sad. "Do not cry," said her mom. "We will find him." They looked '
    "and looked, and at last they saw the dog under a big tree. Lily was happy, and she gave him a big hug."
)


@pytest.mark.parametrize(
    ("name", "kind", "megabytes", "license_"),
    [("story", "text", 64, "CC-BY"), ("kittens", "image", 32, "CC-BY"), ("fruits", "image", 32, "MIT")],
)
def test_whole_small_and_documented(name: str, kind: str, megabytes: int, license_: str) -> None:
    folder = library.find(name)
    assert library.kind(folder) == kind
    assert sum(p.stat().st_size for p in folder.iterdir()) < megabytes * 10**6
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"} | ({".onnx"} if kind == "image" else set())
    record = json.loads((folder / "genkit.json").read_text())
    assert license_ in record["data"]["license"]
    assert record["trained"]["seconds"] > 600
    assert record["metrics"]
    assert record["config"]["seed"] is not None


def test_story_is_the_same_model_in_transformers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = SHELF / "story"
    ids = Tokenizer.load(folder).encode(TALE)
    assert AutoTokenizer.from_pretrained(folder)(TALE)["input_ids"] == ids
    theirs, ours = AutoModelForCausalLM.from_pretrained(folder), load_model(folder)
    with torch.no_grad():
        difference = theirs(torch.tensor([ids])).logits - ours(torch.tensor([ids]))
    assert difference.abs().max() < 1e-4


def test_story_expects_a_story() -> None:
    """An untrained model needs about 3.2 bits a byte here, xz needs more."""
    tokenizer, model = Tokenizer.load(SHELF / "story"), load_model(SHELF / "story")
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(TALE)]])
    with torch.no_grad():
        nats = model.loss(ids[:, :-1], ids[:, 1:]).item() * (ids.shape[1] - 1)
    assert nats / math.log(2) / len(TALE.encode()) < 1.0


def test_story_is_the_default(run_genkit: Callable[..., Any]) -> None:
    done = run_genkit("text", "Once upon a time", "--seed", "1", "--max-new-tokens", "60")
    assert done.code == 0
    assert done.text.startswith("Once upon a time")
    words = done.text.split()
    assert len(words) > 20
    assert len({w.lower() for w in words}) > len(words) / 3  # no stuttering


def test_kittens_are_the_default_and_differ(run_genkit: Callable[..., Any], tmp_path: Path) -> None:
    done = run_genkit("image", "--n", "16", "--seed", "0", "--out", "grid.png")
    assert (done.code, done.text) == (0, "grid.png\n")
    with Image.open(tmp_path / "grid.png") as grid:
        assert min(grid.size) >= 4 * 64
    pipeline = load("kittens", device="cpu")
    assert isinstance(pipeline, ImagePipeline)
    drawn = np.stack([e.pixels for e in pipeline.draw(range(16))]).astype(float)  # (N, H, W, C)
    assert drawn.shape == (16, 64, 64, 3)
    apart = np.abs(drawn[:, None] - drawn[None]).mean((2, 3, 4))  # (N, N)
    assert apart[~np.eye(16, dtype=bool)].min() > 10


def test_fruits_are_drawn_by_name(run_genkit: Callable[..., Any], tmp_path: Path) -> None:
    done = run_genkit("image", "-m", "fruits", "--class", "Cherry_Wax_Black=4,Apple_Golden_1=4", "--format", "npz")
    assert done.code == 0
    with np.load(tmp_path / done.text.strip()) as held:
        images, labels = held["images"].astype(float), held["labels"]
    assert len(set(labels.tolist())) == 2
    dark, yellow = (images[labels == label, 24:40, 24:40].mean((0, 1, 2)) for label in (labels[0], labels[-1]))  # (3,)
    assert dark.max() < 80
    assert yellow[0] > yellow[2] + 60

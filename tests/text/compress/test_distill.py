"""Distillation is a training run: it resumes bit for bit, and nears its teacher."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from genkit import library
from genkit.errors import InputError, Interrupted
from genkit.files import read_json
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.text.compress.distill import distill
from genkit.text.compress.run import compress
from genkit.text.compressconfig import CompressConfig
from genkit.text.models.store import load_model
from genkit.training.log import Loggers, Progress
from genkit.training.weights import load_tensors

CPU = Placement("cpu", "fp32", "torch", "test")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "book.txt").write_text("The cat sat on the mat. The dog ran to the cat.\n" * 200)
    return {
        "data": (str(tmp_path / "book.txt"),),
        "distill_into": "half",
        "batch_size": 4,
        "steps": 6,
        "eval_tokens": 200,
    }


class Stopper(Loggers):
    """A reader who presses Ctrl-C after the third step."""

    def progress(self, progress: Progress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)


def run(teacher: Path, config: CompressConfig, logger: Loggers | None = None, **more: Any) -> None:
    with Runtime(CPU, seed=config.seed) as runtime:
        distill("tiny", teacher, config, runtime, logger or Loggers(), **more)


def test_a_resumed_run_ends_the_same(tiny_text: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = CompressConfig(out=str(tmp_path / "whole"), **settings)
    parts = whole.replace(out=str(tmp_path / "parts"))
    run(tiny_text, whole)
    with pytest.raises(Interrupted, match=r"genkit compress --resume --out"):
        run(tiny_text, parts, logger=Stopper())
    run(tiny_text, parts, resume=True)
    ends = [load_tensors(Path(config.out) / library.WEIGHTS) for config in (whole, parts)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    record = read_json(tmp_path / "whole" / library.RECORD)
    assert record["compressed"] == {"method": "distill", "into": "half", "teacher_weight": 0.7}
    assert record["base"]["model"] == "tiny"
    shape = load_model(tmp_path / "whole").config
    assert (shape.n_layer, shape.vocab_size) == (1, load_model(tiny_text).config.vocab_size)
    with pytest.raises(InputError, match="is not what it was when this run began"):
        run(tmp_path / "parts", whole, resume=True)


def test_training_heals_what_was_pruned(tiny_text: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    plain = {key: settings[key] for key in ("data", "eval_tokens")} | {"prune": 0.5}
    with Runtime(CPU) as runtime:
        cut = compress("tiny", tiny_text, CompressConfig(out=str(tmp_path / "cut"), **plain), runtime, Loggers())
        config = CompressConfig(out=str(tmp_path / "healed"), steps=20, batch_size=4, **plain)
        healed = compress("tiny", tiny_text, config, runtime, Loggers())
    assert cut.report is None
    assert healed.report is not None
    assert cut.before == healed.before
    assert healed.after is not None
    assert cut.after is not None
    assert healed.after < cut.after  # the random teacher knows less than the text does
    assert load_model(tmp_path / "cut").config.n_inner == 32
    assert (
        load_tensors(tmp_path / "cut" / "model.safetensors").keys()
        == load_tensors(tiny_text / "model.safetensors").keys()
    )

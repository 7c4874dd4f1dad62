"""A run that is interrupted again and again ends bit for bit like one that never was."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

STEPS = 60
COMMON = ["--steps", str(STEPS), "--save-interval", "4", "--seed", "3"]
TEXT = ["train-text", "--data", "book.txt", "--tokenizer", "char", "--n-layer", "2", "--n-embd", "64", "--n-head", "2"]
TEXT += ["--block-size", "32", "--batch-size", "8", "--dropout", "0.1", "--eval-interval", "1000"]
GAN = ["train-gan", "--data", "photos", "--size", "32", "--ngf", "8", "--ndf", "8", "--nz", "16", "--batch-size", "8"]
GAN += ["--eval-interval", "20", "--eval-images", "16"]  # which model is best does not hang on the clock


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint, -1 when there is none yet."""
    folders = (run / "checkpoints").glob("step-*") if (run / "checkpoints").is_dir() else ()
    return max((int(folder.name.removeprefix("step-")) for folder in folders), default=-1)


def hashes(run: Path) -> dict[str, str]:
    files = [*(run / "checkpoints" / f"step-{STEPS:06d}").glob("*.safetensors"), run / "model.safetensors"]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("train", [TEXT, GAN], ids=["text", "gan"])
def test_three_kills_leave_no_trace(
    train: list[str], tmp_path: Path, run_genkit: Callable[..., Any], start_genkit: Callable[..., Any]
) -> None:
    (tmp_path / "book.txt").write_text("the cat sat on the mat and the dog ran to the cat\n" * 300)
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (37, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    assert run_genkit(*train, *COMMON, "--out", "straight").code == 0

    chance = random.Random(0)
    run = tmp_path / "killed"
    for attempt in range(3):
        process = start_genkit(*train, *COMMON, "--out", "killed", *(["--resume"] if attempt else []))
        goal = newest_step(run) + 8
        while newest_step(run) < goal:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))  # in a step, or in a save
        process.kill()
        process.wait()
        assert newest_step(run) < STEPS
    done = run_genkit(train[0], "--resume", "--out", "killed")
    assert done.code == 0, done.err
    assert hashes(run) == hashes(tmp_path / "straight")
    assert len(hashes(run)) >= 4  # weights, optimizer, random state, and the published model


ORDER = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGINT)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["one", "two"])
def test_five_interruptions_leave_no_trace(launcher: list[str], parts: int, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the cat sat on the mat and the dog ran to the cat\n" * 300)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, *launcher, "-m", "genkit", *TEXT, *COMMON, "--accumulate", str(parts)]
    command += ["--optimizer", "muon"]

    def start(*args: str) -> subprocess.Popen[bytes]:
        env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *args], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)

    assert start("--out", "straight").wait() == 0
    run = tmp_path / "stopped"
    for attempt, number in enumerate(ORDER):
        process = start("--out", "stopped", *(["--resume"] if attempt else []))
        goal = newest_step(run) + 8
        while newest_step(run) < goal:
            assert process.poll() is None
            time.sleep(0.005)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if launcher and number == signal.SIGKILL:  # one process of two: the other ends with it
            os.kill(int(workers[-1]), number)
        else:
            process.send_signal(number)
        assert process.wait() != 0
        assert newest_step(run) < STEPS
    assert start("--out", "stopped", "--resume").wait() == 0
    assert hashes(run) == hashes(tmp_path / "straight")
    assert len(hashes(run)) >= 4

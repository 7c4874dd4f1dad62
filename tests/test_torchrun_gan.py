"""Training a GAN on two processes: the weights of one, whatever mixes the images of a batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.training.weights import load_tensors

ROOT = Path(__file__).parents[1]
STEPS = 6
BASE = {"data": "pictures", "size": 32, "steps": STEPS, "seed": 3, "nz": 8, "ngf": 4, "ndf": 4, "batch_size": 8,
        "eval_images": 16, "eval_interval": 100, "sample_interval": 100, "save_interval": 100,
        "schedule": "constant"}  # fmt: skip
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
        np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5, atol=1e-6)
        assert distance(one, two, "generator") < 1e-5
        assert distance(one, two, "average") < 1e-5
        # Adam without a first moment takes whole steps along gradients that are all but 0: rounding decides their sign
        assert distance(one, two, "discriminator") < 1e-4


RESUMED = """
asked = train.training_batch
def interrupted(config, store, step):
    if step == stop_at and it.rank == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return asked(config, store, step)
train.training_batch = interrupted
with runtime() as it:
    stop_at = -1
    run(it, "straight", **CASE)
    for attempt, stop_at in enumerate((2, 4, -1)):
        try:
            run(it, "resumed", resume=attempt > 0, **CASE)
        except GenkitError as error:
            print(type(error).__name__, error.message)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan", "plus"])
def test_a_signal_of_one_rank_stops_both_and_resuming_is_bit_exact(
    told_by_ranks: Ranks, pictures: Path, name: str
) -> None:
    first, second = told_by_ranks(f"{PRELUDE}CASE = {CASES[name]!r}\n{RESUMED}")
    assert first == second
    assert first.splitlines() == [f"Interrupted stopped by SIGINT; saved at step {n} in resumed" for n in (3, 5)]
    straight, resumed = tensors(pictures / "straight"), tensors(pictures / "resumed")
    assert straight.keys() == resumed.keys()
    for part, found in straight.items():
        assert all((tensor == resumed[part][at]).all() for at, tensor in found.items())


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(told_by_ranks: Ranks, pictures: Path) -> None:
    half = STEPS // 2
    told_by_ranks(
        f"""{PRELUDE}
with runtime() as it:
    for name, case in {CASES!r}.items():
        run(it, name, **case | {{"steps": {half}}})
"""
    )
    told_by_ranks(
        f"""{PRELUDE}
with runtime() as it:
    for name, case in {CASES!r}.items():
        run(it, "straight-" + name, **case)
        run(it, name, resume=True, **case)
""",
        count=1,
    )
    for name in CASES:
        assert distance(pictures / f"straight-{name}", pictures / name, "generator") < 1e-5


def test_only_rank_0_writes_and_a_wall_time_budget_ends_all_at_once(told_by_ranks: Ranks, pictures: Path) -> None:
    told = told_by_ranks(
        PRELUDE
        + """
from genkit import files
if os.environ["RANK"] == "1":
    def forbidden(*args, **more):
        raise AssertionError("rank 1 writes")
    files.atomic_write = files.synced = train.publish.__globals__["graph"].write = forbidden
    import time
    train.time = type("later", (), {"monotonic": staticmethod(lambda: time.monotonic() - 1000)})
with runtime() as it:
    often = dict(eval_interval=None, sample_interval=None, save_interval=None)
    report = run(it, "run", **BASE | often | dict(steps=None, budget=4.0, arch="dcgan"))
    print(report.steps, report.seen)
"""
    )
    assert told[0] == told[1]
    assert int(told[0].split()[0]) >= 1
    run = pictures / "run"
    assert {"model.safetensors", "generator.onnx", "curves.png", "best"} <= {path.name for path in run.iterdir()}
    assert (run / "samples/film.webp").is_file()


COMMAND = """
import sys
from genkit.cli import entry
sys.exit(entry(["train-gan", "--data", "pictures", "--size", "32", "--ngf", "4", "--ndf", "4", "--nz", "8",
                "--eval-images", "16", "--steps", "3", "--out", "run", *MORE]))
"""


def test_a_batch_that_does_not_divide_is_refused_once(start_ranks: Start, pictures: Path) -> None:
    processes = start_ranks('MORE = ["--batch-size", "7"]\n' + COMMAND)
    told = [process.communicate() for process in processes]
    errors = [line for _, err in told for line in err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: --batch-size 7 does not divide over 2 processes (use 8)"]
    assert [process.returncode for process in processes] == [2, 2]


@pytest.mark.slow
def test_the_command_under_torchrun(pictures: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "genkit"]
    flags = ["train-gan", "--data", "pictures", "--size", "32", "--ngf", "4", "--ndf", "4", "--batch-size", "8"]
    done = subprocess.run(
        [*command, *flags, "--eval-images", "16", "--steps", "4", "--out", "run", "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=pictures, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seen"] == 32
    assert done.stderr.count("sample it: ") == 1

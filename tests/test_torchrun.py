"""Training on two processes: the losses and weights of one, and one end for both.

Most tests start the ranks themselves, which spares torchrun's own imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genkit.training.weights import load_tensors

ROOT = Path(__file__).parents[1]
STEPS = 8
BOOK = "the cat sat on the mat and the dog ran to the cat\n" * 120
BASE = {"data": ["book.txt"], "tokenizer": "char", "steps": STEPS, "seed": 3, "n_layer": 2, "n_embd": 32, "n_head": 2,
        "block_size": 16, "batch_size": 8, "eval_interval": 100, "sample_interval": 100, "save_interval": 100,
        "schedule": "constant", "warmup": 0.0, "lr": 0.003}  # fmt: skip
PRELUDE = f"""
import os, signal, sys, warnings
import torch
from genkit.errors import GenkitError
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.text import step, train
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.log import Loggers

BASE = {BASE!r}
def runtime():
    return Runtime(Placement("cpu", "fp32", "torch", ""), seed=3)
train._LOG_INTERVAL = 1
def run(runtime, out, resume=False, **changes):
    config = TextTrainConfig.from_dict(BASE | changes | {{"out": out}})
    return train.train_text(config, runtime, Loggers(), resume=resume)
"""

Start = Callable[..., list[subprocess.Popen[str]]]
Ranks = Callable[..., list[str]]


@pytest.fixture
def start(start_ranks: Start, tmp_path: Path) -> Start:
    """Start a script, after PRELUDE, as `count` ranks in `tmp_path`, which has `book.txt`."""
    (tmp_path / "book.txt").write_text(BOOK)
    return lambda script, **how: start_ranks(PRELUDE + script, **how)


@pytest.fixture
def ranks(told_by_ranks: Ranks, tmp_path: Path) -> Ranks:
    """What each rank of a script, after PRELUDE, printed."""
    (tmp_path / "book.txt").write_text(BOOK)
    return lambda script, **how: told_by_ranks(PRELUDE + script, **how)


def checkpoint(run: Path, step: int = STEPS) -> dict[str, Tensor]:
    folder = run / "checkpoints" / f"step-{step:06d}"
    model, moments = load_tensors(folder / "model.safetensors"), load_tensors(folder / "optimizer.safetensors")
    return {f"model {name}": t for name, t in model.items()} | {f"moment {name}": t for name, t in moments.items()}


def distance(one: Path, other: Path) -> float:
    """How far the weights of two runs are apart, as a share of their norm."""
    first, second = (load_tensors(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    apart = sum(float((tensor - second[name]).double().square().sum()) for name, tensor in first.items())
    return float((apart / sum(float(tensor.double().square().sum()) for tensor in first.values())) ** 0.5)


def losses(run: Path) -> list[float]:
    """The training losses that a run kept, one a step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def same(one: Path, other: Path) -> bool:
    first, second = checkpoint(one), checkpoint(other)
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# a batch whose second half, the rows of rank 1, and one micro-batch of rank 0 have nothing that counts
MASKED = """
plain = train.training_batch
def masked(*args):
    x, y = plain(*args)
    y[4:] = y[:1] = -100
    return x, y
"""
CASES = """
with runtime() as it:
    for optimizer in ("adamw", "muon"):
        for parts in (1, 4):
            run(it, f"{optimizer}-{parts}", optimizer=optimizer, accumulate=parts)
            if it.world_size > 1 and (optimizer, parts) in (("adamw", 4), ("muon", 1)):
                run(it, f"{optimizer}-{parts}-fsdp", optimizer=optimizer, accumulate=parts, parallel="fsdp")
                assert it.sharded
    train.training_batch = masked
    run(it, "masked-4", accumulate=4)
"""


def test_two_processes_give_the_weights_of_one(ranks: Ranks, tmp_path: Path) -> None:
    ranks(MASKED + CASES, count=1)
    for run in [*tmp_path.glob("*-*")]:
        run.rename(tmp_path / f"alone-{run.name}")
    ranks(MASKED + CASES)
    pairs = {run.name: tmp_path / f"alone-{run.name.removesuffix('-fsdp')}" for run in tmp_path.glob("[!.]*-[14]*")}
    pairs = {name: one for name, one in pairs.items() if not name.startswith("alone-")}
    assert len(pairs) == 7
    for name, one in pairs.items():
        assert losses(tmp_path / name) == pytest.approx(losses(one), rel=1e-6)
        assert len(losses(one)) == STEPS
    apart = {name: distance(one, tmp_path / name) for name, one in pairs.items()}
    assert {name: found for name, found in apart.items() if found > 2e-6} == {}


RESUMED = """
asked = train.training_batch
def interrupted(config, model, corpus, number):
    if number == stop_at and it.rank == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return asked(config, model, corpus, number)
train.training_batch = interrupted
with runtime() as it:
    for parts in (1, 4):
        for parallel in ("ddp", "fsdp"):
            settings = dict(accumulate=parts, dropout=0.1, optimizer="muon", parallel=parallel)
            stop_at = -1
            run(it, f"straight-{parts}-{parallel}", **settings)
            for attempt, stop_at in enumerate((2, 3, 6, -1)):
                try:
                    run(it, f"resumed-{parts}-{parallel}", resume=attempt > 0, **settings)
                except GenkitError as error:
                    print(type(error).__name__, error.message)
"""


@pytest.mark.slow
def test_a_signal_of_one_rank_stops_both_and_resuming_is_bit_exact(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks(RESUMED)
    assert first == second
    assert first.splitlines()[:3] == [
        f"Interrupted stopped by SIGINT; saved at step {n} in resumed-1-ddp" for n in (3, 4, 7)
    ]
    for parts in (1, 4):
        for parallel in ("ddp", "fsdp"):
            assert same(tmp_path / f"straight-{parts}-{parallel}", tmp_path / f"resumed-{parts}-{parallel}")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(ranks: Ranks, tmp_path: Path) -> None:
    half = STEPS // 2
    ranks(
        f"""
with runtime() as it:
    run(it, "fsdp-ddp-one", steps={half // 2}, parallel="fsdp")
    run(it, "fsdp-ddp-one", steps={half}, resume=True, parallel="ddp")
"""
    )
    ranks(
        f"""
with runtime() as it:
    run(it, "straight")
    run(it, "fsdp-ddp-one", resume=True, steps={STEPS})
    run(it, "one-fsdp", steps={half})
""",
        count=1,
    )
    ranks('with runtime() as it:\n    run(it, "one-fsdp", resume=True, parallel="fsdp")\n')
    for name in ("fsdp-ddp-one", "one-fsdp"):
        assert distance(tmp_path / "straight", tmp_path / name) < 2e-6


def test_only_rank_0_writes_and_a_wall_time_budget_ends_all_at_once(ranks: Ranks, tmp_path: Path) -> None:
    told = ranks(
        """
from genkit import files
if os.environ["RANK"] == "1":
    def forbidden(*args, **more):
        raise AssertionError("rank 1 writes")
    files.atomic_write = files.synced = forbidden
    import time
    train.time = type("later", (), {"monotonic": staticmethod(lambda: time.monotonic() - 1000)})
with runtime() as it:
    report = run(it, "run", steps=None, budget=3.0, eval_interval=None, sample_interval=None, save_interval=None)
    print(report.steps, report.seen)
"""
    )
    assert told[0] == told[1]
    assert int(told[0].split()[0]) >= 1
    assert (tmp_path / "run/best/model.safetensors").is_file()


COMMAND = """
import sys
from genkit.cli import entry
args = ["train-text", "--data", "book.txt", "--tokenizer", "char", "--n-layer", "1", "--n-embd", "32", "--n-head", "2",
        "--block-size", "16", "--batch-size", "8", "--out", "run"]
"""
FAILURES = {
    "rank 1 alone": (
        """
from genkit.errors import ResourceError
def fail(*args, **more):
    raise ResourceError("no memory left", "buy some")
if os.environ["RANK"] == "1":
    train.train_step = fail
sys.exit(entry([*args, "--steps", "5"]))
""",
        "error: rank 1: no memory left (buy some)",
        [5, 5],
    ),
    "the disk of rank 0": (
        """
from genkit.errors import OutputError
from genkit.training.rundir import RunDir
def full(*args):
    raise OutputError("no space left on device", "free some")
if os.environ["RANK"] == "0":
    RunDir._write = full
sys.exit(entry([*args, "--steps", "5"]))
""",
        "error: no space left on device (free some)",
        [4, 4],
    ),
    "rank 0 while it reads": (
        """
def broken(*args, **more):
    raise ZeroDivisionError("what now")
if os.environ["RANK"] == "0":
    train.prepare = broken
sys.exit(entry([*args, "--steps", "5"]))
""",
        "error: internal: ZeroDivisionError: what now (a bug in genkit; --debug shows where)",
        [1, 1],
    ),
    "both": (
        'sys.exit(entry([*args, "--steps", "5", "--batch-size", "7"]))',
        "error: --batch-size 7 does not divide over 2 processes (use 8)",
        [2, 2],
    ),
    "a rank that dies": (
        """
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["RANK"] == "1":
    train.train_step = die
sys.exit(entry([*args, "--steps", "5"]))
""",
        "error: another process of this run ended (--resume goes on from the last checkpoint, if there is one)",
        [5, -9],
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_ends_both_ranks_and_is_told_once(start: Start, tmp_path: Path, name: str) -> None:
    script, line, codes = FAILURES[name]
    processes = start(COMMAND + script)
    told = [process.communicate(timeout=120) for process in processes]
    errors = [line for _, err in told for line in err.splitlines() if line.startswith("error: ")]
    assert errors == [line]
    assert [process.returncode for process in processes] == codes
    assert [out for out, _ in told] == ["", ""]
    assert told[1][1] in ("", f"{line}\n")  # rank 1 says nothing else
    assert not (tmp_path / "run" / ".lock").exists() or not list((tmp_path / "run").glob(".genkit-tmp*"))


def torchrun(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "genkit"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *args], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    args = [
        "train-text",
        "--data",
        "book.txt",
        "--n-layer",
        "1",
        "--n-embd",
        "32",
        "--n-head",
        "2",
        "--block-size",
        "16",
    ]
    done = torchrun(tmp_path, *args, "--batch-size", "8", "--steps", "4", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4
    assert done.stderr.count("sample it: ") == 1
    assert "warning" not in done.stderr
    assert "leaked" not in done.stderr
    refused = torchrun(tmp_path, *args, "--no-such-option")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.count("error: no such option --no-such-option") == 1

"""Real processes: SIGKILL in the middle of saving, and many starts at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from genkit.training.rundir import RunDir

# One process imports torch and forks for every line it reads: importing anew for
# each of a hundred kills would take minutes. A forked child takes the first free
# path from the line, and tells what it does on its standard output.
NURSERY = """
import os, sys, time, torch
from torch import nn
from genkit.errors import GenkitError
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState

torch.set_num_threads(1)

def tell(text):
    os.write(1, text.encode() + b"\\n")

def state(step):
    model = nn.Linear(64, 64)
    for p in model.parameters():
        nn.init.constant_(p, step)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"] = torch.full_like(p, step)
    return TrainState({"model": model}, {"sgd": optimizer}, step=step)

def save(path):
    try:
        run = RunDir.resume(path)
        current = state(0)
        current.restore(run.load_checkpoint())
        step = current.step
    except GenkitError:
        run, step = RunDir.create(path), 0
    while True:
        following = state(step + 1)
        for _ in range(2):  # a new step, and then the same one again
            tell(f"begin {step + 1}")
            run.save_checkpoint(following)
            tell(f"end {step + 1}")
        run.publish(tensors={"model.safetensors": following.modules["model"].state_dict()})
        step += 1

def start(path, number):
    os.read(0, 1)  # all at once
    try:
        run = RunDir.create(path)
        tell(f"{number} won")
        run.metrics_path.write_text(number)
        while not os.path.exists(f"{path}.end"):  # hold the lock until told
            time.sleep(0.01)
    except GenkitError as error:
        tell(f"{number} {type(error).__name__}")

state(1)
tell("ready")
for line in sys.stdin:
    what, *arguments = line.split()
    if what == "wait":
        tell(f"dead {os.waitpid(int(arguments[0]), 0)[1]}")
    elif (child := os.fork()):
        tell(f"pid {child}")
    else:
        os.dup2(os.open(os.environ["ORDERS"], os.O_RDONLY), 0)
        {"save": save, "start": start}[what](*arguments)
        os._exit(0)
"""


class Nursery:
    """The process of `NURSERY`, and the lines it wrote."""

    def __init__(self, orders: Path) -> None:
        os.mkfifo(orders)
        self.orders = os.open(orders, os.O_RDWR)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ORDERS": str(orders)},
            cwd=Path(__file__).parents[2],
        )
        self.read()

    def tell(self, line: str) -> None:
        pipe: IO[str] = self.process.stdin  # type: ignore[assignment]
        pipe.write(line + "\n")
        pipe.flush()

    def read(self) -> str:
        pipe: IO[str] = self.process.stdout  # type: ignore[assignment]
        return pipe.readline().strip()

    def until(self, word: str) -> list[str]:
        """Lines up to the first that begins with `word`."""
        lines = [self.read()]
        while not lines[-1].startswith(word):
            lines.append(self.read())
        return lines


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "orders")
    yield nursery
    nursery.process.communicate()
    os.close(nursery.orders)


def kill_often(nursery: Nursery, path: Path, kills: int) -> tuple[int, int]:
    """Kill a saving process at random moments; how many kills fell into a save, and left a half one."""
    chance = random.Random(0)
    inside = halves = finished = 0
    for _ in range(kills):
        nursery.tell(f"save {path}")
        pid = int(nursery.until("pid")[-1].split()[1])
        begun = nursery.until("begin")[-1]
        clock = time.monotonic()
        lines = [begun, *nursery.until("end")]
        duration = time.monotonic() - clock
        time.sleep(chance.uniform(0, 3 * duration))
        os.kill(pid, signal.SIGKILL)
        nursery.tell(f"wait {pid}")
        lines += nursery.until("dead")
        assert lines.pop() == f"dead {int(signal.SIGKILL)}"
        inside += lines[-1].startswith("begin")
        finished = max(int(line.split()[1]) for line in lines if line.startswith("end"))
        halves += any(not f.name.startswith("step-") for f in (path / "checkpoints").iterdir())

        with RunDir.resume(path) as run:
            checkpoint = run.load_checkpoint()
        assert checkpoint.skipped == ()  # nothing that bears a checkpoint's name is damaged
        assert checkpoint.step in (finished, finished + 1)  # what was said to be saved is there
        values = [t for stem in ("model", "optimizer") for t in checkpoint.tensors[stem].values()]
        assert all((t == checkpoint.step).all() for t in values)
        names = sorted(f.name for f in (path / "checkpoints").iterdir())
        assert all(name.startswith("step-") for name in names)
        assert len(names) >= min(2, checkpoint.step)
    return inside, halves


def test_kills_while_saving(tmp_path: Path, nursery: Nursery) -> None:
    inside, _ = kill_often(nursery, tmp_path / "run", 8)
    assert inside >= 3


@pytest.mark.slow
def test_a_hundred_kills_while_saving(tmp_path: Path, nursery: Nursery) -> None:
    inside, halves = kill_often(nursery, tmp_path / "run", 100)
    assert inside >= 60
    assert halves >= 40


@pytest.mark.parametrize("present", [False, True])
def test_of_twenty_starts_in_one_directory_one_wins(tmp_path: Path, nursery: Nursery, present: bool) -> None:
    path = tmp_path / "run"
    if present:
        path.mkdir()
    for number in range(20):
        nursery.tell(f"start {path} {number}")
    pids = [nursery.read().removeprefix("pid ") for _ in range(20)]
    os.write(nursery.orders, b"s" * 20)
    answers = dict(nursery.read().split() for _ in range(20))
    assert sorted(answers.values()) == ["RunBusyError"] * 19 + ["won"]
    (winner,) = (number for number, answer in answers.items() if answer == "won")
    (tmp_path / "run.end").touch()
    for pid in pids:
        nursery.tell(f"wait {pid}")
        assert nursery.read() == "dead 0"
    assert (path / "metrics.jsonl").read_text() == winner
    # the lock is free again, and the run is there, once it has saved
    (path / "checkpoints" / "step-000001").mkdir(parents=True)
    nursery.tell(f"start {path} late")
    pid = nursery.read().removeprefix("pid ")
    os.write(nursery.orders, b"s")
    assert nursery.read() == "late UsageError"
    nursery.tell(f"wait {pid}")
    assert nursery.read() == "dead 0"

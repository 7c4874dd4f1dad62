"""Training, against nanoGPT's train.py with the CPU flags of its README, on the same text.

    python benchmarks/train_text.py --text tinyshakespeare.txt --nanogpt DIR [--json] [--rounds N]

DIR is a clone of karpathy/nanoGPT; what runs is a copy of it, unchanged. The first 90 %
of the characters train, the last 10 % validate. All wall times are of whole processes.

Both losses are nats a character over the last 10 %, in windows that do not overlap and
are as long as the model's context: ours by `genkit eval` over the whole of it, nanoGPT's
by its own estimate, over as many random windows as make EVAL_PASSES of it.
Throughput is the median over the logged stretches of training, so that evaluations and
saves do not count. The share of the matmul peak counts 6 N + 12 L C T operations a
token, as nanoGPT's estimate does (N: parameters of matrix products).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from harness import Result, Row, Skipped, genkit, in_turn, main, process, progress, run, threads, training_precisions

ITERATIONS = 2000  # of nanoGPT's CPU run
SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12}
RATE_STEPS = 300  # of a run that measures throughput
EVAL_PASSES = 10
TARGET = 1.874  # nats a character: what nanoGPT's CPU run reached on tiny Shakespeare
BUDGETS = (20, 25, 30, 35, 40, 50, 60)  # seconds
PEAK_SIZES = (1024, 2048)  # of square matrices
PRESETS = {"tiny": 200, "nano": 40}  # steps


class Texts:
    """The first 90 % and the last 10 % of a text file, as nanoGPT's prepare.py divides it."""

    def __init__(self, text: Path, folder: Path) -> None:
        self.all = text.read_text()
        cut = int(len(self.all) * 0.9)
        self.train, self.val = folder / "train.txt", folder / "val.txt"
        self.train.write_text(self.all[:cut])
        self.val.write_text(self.all[cut:])
        self.characters = len(self.all) - cut


class NanoGPT:
    """A copy of nanoGPT that trains on `texts`."""

    def __init__(self, clone: Path, texts: Texts, folder: Path) -> None:
        self.folder, self.texts = folder / "nanoGPT", texts
        shutil.copytree(clone, self.folder, ignore=shutil.ignore_patterns(".git", "out*", "*.bin", "input.txt"))
        data = self.folder / "data/shakespeare_char"
        (data / "input.txt").write_text(texts.all)
        if importlib.util.find_spec("requests") is None:  # only its download needs it
            (data / "requests.py").touch()
        self.run("data/shakespeare_char/prepare.py")
        self.out = folder / "nanogpt-out"

    def run(self, script: str, *flags: str) -> str:
        """Standard output of one of its scripts."""
        return run([sys.executable, script, *flags], cwd=self.folder, **cores())

    def train(self, iterations: int, *, compile: bool = False) -> str:
        """Train anew with the README's CPU flags, or compiled, which they are not; what it prints."""
        evaluations = {"eval_interval": min(250, iterations), "eval_iters": 20}
        return self._train({"max_iters": iterations, "lr_decay_iters": iterations, "compile": compile} | evaluations)

    def loss(self) -> float:
        """Nats a character of the model that `train` left, by its own estimate."""
        windows, size = EVAL_PASSES * self.texts.characters / SHAPE["block_size"], 128
        # it estimates before its first iteration, and stops after it: --eval_only ends no resumed run
        once = {"init_from": "resume", "eval_interval": 1, "max_iters": 0, "learning_rate": 0.0, "decay_lr": False}
        shown = self._train(once | {"batch_size": size, "eval_iters": math.ceil(windows / size)})
        return float(re.findall(r"val loss ([\d.]+)", shown)[0])

    def _train(self, flags: dict[str, Any]) -> str:
        flags = SHAPE | {"device": "cpu", "compile": False, "dropout": 0.0, "log_interval": 1} | flags
        given = [f"--{name}={value}" for name, value in (flags | {"out_dir": str(self.out)}).items()]
        return self.run("train.py", "config/train_shakespeare_char.py", *given)


def cores() -> dict[str, str]:
    """As many threads for one contender as for the other."""
    return {"OMP_NUM_THREADS": str(threads())}


def train(texts: Texts, out: Path, *flags: str) -> float:
    """Train one of ours; the wall time of the whole process in seconds."""
    data = ("--data", texts.train, "--val-data", texts.val, "--out", out, "--force", "--device", "cpu", "-q")
    return process(genkit("train-text", *data, *flags), **cores())()


def rate(run_folder: Path) -> float:
    """Tokens a second of a run, from the stretches between the lines of its metrics."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    marks = [(line["seconds"], line["tokens"]) for line in lines if "tokens" in line]
    return median((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(marks))


def nanogpt_rate(shown: str) -> float:
    """Tokens a second, from the times of all iterations that nanoGPT printed."""
    seconds = [float(ms) / 1000 for ms in re.findall(r"^iter \d+: .* time ([\d.]+)ms", shown, re.MULTILINE)]
    return SHAPE["batch_size"] * SHAPE["block_size"] / median(seconds)


def loss(texts: Texts, model: Path) -> float:
    """Nats a character of one of ours over the whole validation text."""
    from genkit.text.models.store import read_config

    flags = ("--stride", read_config(model).block_size, "--device", "cpu", "--json")
    facts = json.loads(run(genkit("eval", model, "--data", texts.val, *map(str, flags)), **cores()))
    return float(facts["loss"]) * float(facts["tokens"]) / texts.characters


def matmul_peak(dtype_name: str) -> float:
    """Operations a second of torch's best square matrix product on all threads."""
    import torch

    torch.set_num_threads(threads())
    dtype, best = getattr(torch, dtype_name), 0.0
    for size in PEAK_SIZES:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        for _ in range(10):
            started = time.perf_counter()
            a @ b
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def operations(model: Path) -> int:
    """Floating-point operations of training on one token."""
    from genkit.text.models.gpt import count_parameters
    from genkit.text.models.store import read_config

    shape = read_config(model)
    lookup = (0 if shape.tie_embeddings else shape.vocab_size) + (shape.block_size if shape.arch == "gpt2" else 0)
    matrices = count_parameters(shape) - lookup * shape.n_embd
    return 6 * matrices + 12 * shape.n_layer * shape.n_head * shape.head_dim * shape.block_size


def whole_runs(texts: Texts, peer: NanoGPT, folder: Path) -> list[Result]:
    """One whole run of nanoGPT; ours with as much time, and with as little as its loss takes."""
    started = time.perf_counter()
    peer.train(ITERATIONS)
    seconds = time.perf_counter() - started
    theirs = peer.loss()
    progress(f"nanoGPT: {theirs:.4f} nats/char after {seconds:.1f} s")

    def ours(budget: int) -> tuple[float, float]:
        took = train(texts, folder / "ours", "--budget", f"{budget}s")
        reached = loss(texts, folder / "ours")
        progress(f"train-text --budget {budget}s: {reached:.4f} nats/char after {took:.1f} s")
        return took, reached

    took, reached = ours(max(1, math.floor(seconds)))
    name = f"nanoGPT, {ITERATIONS:,} iterations in {seconds:.0f} s"
    rows: list[Result] = [
        Row("training, loss after the same wall time", name, [reached], [theirs], "nats/char", "<= 0.855",
            note=f" in {took:.0f} s")
    ]  # fmt: skip
    what = f"training, seconds to {TARGET} nats/char"
    for budget in BUDGETS:
        took, reached = ours(budget)
        if reached <= TARGET:
            return [*rows, Row(what, name, [took], [seconds], "s", "<= 0.333", note=f", {reached:.3f} nats/char")]
    return [*rows, Skipped(what, f"the loss is {reached:.3f} after {BUDGETS[-1]} s")]


def rate_rows(texts: Texts, peer: NanoGPT, folder: Path, rounds: int) -> list[Result]:
    """Tokens a second of training on nanoGPT's shape and batch, with its optimizer."""
    shape = [text for name, value in SHAPE.items() for text in ("--" + name.replace("_", "-"), str(value))]
    flags = (*shape, "--arch", "gpt2", "--tokenizer", "char", "--steps", str(RATE_STEPS), "--optimizer", "adamw")

    def ours(*more: str) -> Callable[[], float]:
        def measure() -> float:
            train(texts, folder / "shape", *flags, *more)
            return rate(folder / "shape")

        return measure

    def theirs(*, compile: bool) -> Callable[[], float]:
        return lambda: nanogpt_rate(peer.train(RATE_STEPS, compile=compile))

    pairs = {"train-text": "nanoGPT", "train-text, fp32": "nanoGPT", "train-text, compiled": "nanoGPT, compiled"}
    own = (ours("--no-compile"), ours("--no-compile", "--precision", "fp32"), ours("--compile"))
    peers = {"nanoGPT": theirs(compile=False), "nanoGPT, compiled": theirs(compile=True)}
    rates = in_turn(dict(zip(pairs, own, strict=True)) | peers, rounds)
    return [
        Row(f"{name}, {SHAPE['n_layer']} x {SHAPE['n_embd']}, batch {SHAPE['batch_size']} x {SHAPE['block_size']}",
            other, rates[name], rates[other], "tok/s", reach)
        for (name, other), reach in zip(pairs.items(), (">= 1.5", None, None), strict=True)
    ]  # fmt: skip


def peak_rows(texts: Texts, folder: Path, rounds: int) -> list[Result]:
    """The share of the machine's matmul peak while training."""
    rows: list[Result] = []
    for precision, dtype in training_precisions().items():
        for preset, steps in PRESETS.items():
            out = folder / f"{preset}-{precision}"

            def ours(out: Path = out, preset: str = preset, precision: str = precision, steps: int = steps) -> float:
                train(texts, out, "--preset", preset, "--precision", precision, "--steps", str(steps))
                return operations(out) * rate(out) / 1e9

            got = in_turn({"train-text": ours, "matmul": lambda dtype=dtype: matmul_peak(dtype) / 1e9}, rounds)
            rows.append(
                Row(f"share of the matmul peak, {preset}, {precision}", f"torch's matmul, {precision}",
                    got["train-text"], got["matmul"], "GFLOP/s")
            )  # fmt: skip
    return rows


def measure(args: argparse.Namespace) -> list[Result]:
    if args.text is None:
        return [Skipped("training", "no text; --text FILE names it")]
    with tempfile.TemporaryDirectory(prefix="genkit-benchmark-") as scratch:
        folder = Path(scratch)
        texts = Texts(args.text, folder)
        results = peak_rows(texts, folder, args.rounds)
        if args.nanogpt is None:
            return [Skipped("training against nanoGPT", "no clone of it; --nanogpt DIR names it"), *results]
        peer = NanoGPT(args.nanogpt, texts, folder)
        return whole_runs(texts, peer, folder) + rate_rows(texts, peer, folder, args.rounds) + results


if __name__ == "__main__":
    main(__doc__, measure)

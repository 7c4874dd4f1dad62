"""Training a GAN: throughput, and what comes out of the same minutes.

    python benchmarks/train_gan.py [--json] [--rounds N] [--cores 0,1]
    python benchmarks/train_gan.py --quality --data kittens/ --budget 8m --seeds 0-2 --out runs [-- FLAGS]

Throughput: `genkit train-gan --arch dcgan` at 64 pixels, batch 64, against the network
and loop of the PyTorch example (dcgan_peer.py), each a process of its own, images a
second as the median over the stretches of training that it logs. Its share of the
machine's limit counts the operations of the convolutions that a step cannot do without;
what they take one by one, without all else, is a row of its own.

Quality: see gan_quality.py, which --quality runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import dcgan_peer
import gan_quality
from gan_runs import cores, environment_of, train
from harness import ROOT, Result, Row, arguments, in_turn, report, run, threads, training_precisions
from train_text import matmul_peak

SIZE, BATCH = 64, 64
STEPS = 60  # of a run; the first stretch of ten does not count
PEER_STEPS = 25


def noise(folder: Path, images: int = 256) -> Path:
    """A zip of images for throughput, where it does not matter what they show."""
    import numpy as np
    from gan_runs import write_zip

    pixels = np.random.default_rng(0).integers(0, 256, (images, SIZE, SIZE, 3), np.uint8)
    return write_zip(folder / "noise.zip", pixels)


def rate(run_folder: Path) -> float:
    """Images a second of a run, from the stretches between the lines of its metrics; pauses fall out."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    marks = [(line["seconds"], line["images"]) for line in lines if "d_loss" in line]
    return median((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(marks))


def peer_rate(steps: int) -> float:
    """Images a second of the example's loop, the median of its steps but for the first five."""
    command = [sys.executable, ROOT / "benchmarks/dcgan_peer.py", "--steps", str(steps)]
    rates = json.loads(run([*command, "--size", str(SIZE), "--batch-size", str(BATCH)], **environment_of()))
    return median(rates[5:] or rates)


def operations(size: int = SIZE, batch: int = 4) -> float:
    """Floating-point operations an image that a step of both networks cannot do without.

    D sees real and fake images and learns from both; G's gradient goes through D, whose
    weights need none then.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    generator, discriminator = dcgan_peer.generator(size), dcgan_peer.discriminator(size)
    with FlopCounterMode(display=False) as counted:
        fake = generator(torch.randn(batch, dcgan_peer.NZ, 1, 1))
        both = discriminator(torch.randn(batch, 3, size, size)).sum() + discriminator(fake.detach()).sum()
        both.backward()
        discriminator.requires_grad_(False)
        discriminator(fake).sum().backward()
    return counted.get_total_flops() / batch


def convolutions_rate(dtype_name: str, size: int = SIZE, batch: int = BATCH) -> float:
    """Images a second if a step were its convolutions alone, each timed by itself, channels last."""
    import torch
    from torch import nn

    torch.set_num_threads(threads())
    dtype = getattr(torch, dtype_name)

    def seconds(layer: nn.Module, x: torch.Tensor, *, weights: bool, inputs: bool) -> float:
        layer.requires_grad_(weights)
        x = x.detach().requires_grad_(inputs)
        gradient = torch.randn_like(layer(x))
        best = math.inf
        for _ in range(5):
            layer.zero_grad(set_to_none=True)
            x.grad = None
            started = time.perf_counter()
            layer(x).backward(gradient)
            best = min(best, time.perf_counter() - started)
        return best

    total = 0.0
    for network, shape in (
        (dcgan_peer.generator(size), (batch, dcgan_peer.NZ, 1, 1)),
        (dcgan_peer.discriminator(size), (batch, 3, size, size)),
    ):
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last)
        first = True
        for layer in network:
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                continue
            layer.to(dtype, memory_format=torch.channels_last)
            learns = seconds(layer, x, weights=True, inputs=not first)
            if isinstance(layer, nn.ConvTranspose2d):
                total += learns
            else:  # real images, fake ones, and fakes again for G
                total += 2 * learns + seconds(layer, x, weights=False, inputs=True)
            with torch.no_grad():
                x = layer(x)
            first = False
    return batch / total


def measure(args: argparse.Namespace) -> list[Result]:
    from genkit.runtime.device import resolve

    precisions = training_precisions()
    with tempfile.TemporaryDirectory(prefix="genkit-benchmark-") as scratch:
        folder = Path(scratch)
        data = noise(folder)
        shape = ("--arch", "dcgan", "--size", SIZE, "--batch-size", BATCH, "--steps", STEPS)

        def ours(precision: str) -> Callable[[], float]:
            def one() -> float:
                out = folder / precision
                train(data, out, *shape, "--device", "cpu", "--precision", precision)
                return rate(out)

            return one

        contenders: dict[str, Any] = {f"train-gan, {precision}": ours(precision) for precision in precisions}
        contenders["the example"] = lambda: peer_rate(PEER_STEPS)
        for precision, dtype in precisions.items():
            contenders[f"matmul, {precision}"] = lambda dtype=dtype: matmul_peak(dtype) / 1e9
            contenders[f"convolutions, {precision}"] = lambda dtype=dtype: convolutions_rate(dtype)
        got = in_turn(contenders, args.rounds)
        gflop = operations() / 1e9
        rows: list[Result] = []
        for precision in precisions:
            by_default = precision == resolve("cpu", task="train-gan").precision
            mine, name = (
                got[f"train-gan, {precision}"],
                f"train-gan --arch dcgan, {SIZE} px, batch {BATCH}, {precision}",
            )
            rows += [
                Row(name, "the PyTorch example's net and loop, fp32", mine, got["the example"], "images/s",
                    ">= 1.3" if by_default else None, note=", the default here" if by_default else ""),
                Row(f"share of the matmul peak, {name}", f"torch's matmul, {precision}", [gflop * x for x in mine],
                    got[f"matmul, {precision}"], "GFLOP/s", ">= 0.6" if by_default else None),
                Row(f"share of its convolutions, {name}", "its convolutions alone, one by one", mine,
                    got[f"convolutions, {precision}"], "images/s"),
            ]  # fmt: skip
        return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--cores", metavar="LIST", help="CPU cores for everything, e.g. 0 or 0,1 (default: all)")
    gan_quality.add_arguments(parser)
    args = parser.parse_args()
    cores(args.cores)
    print(gan_quality.run_all(args) if args.quality else report(measure(args), args), end="")


if __name__ == "__main__":
    main()

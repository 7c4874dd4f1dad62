"""What comes out of the same minutes: `--arch plus` by default flags against DCGAN as the example has it.

Every run is a `genkit train-gan` of its own, on a part of the data that leaves 1,000
images out; 1,000 samples of what it leaves behind, its best model, are compared with
those. KD is the unbiased kernel distance of EfficientNet-Lite0's features, diversity a
share of the data's. The runs, a sheet of each and the table stay in --out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

from gan_runs import SAMPLES, Judge, seeds, sheet, split, train
from harness import Row, machine, markdown, number, progress

# the example's: batch-norm in both networks, BCE, Adam 2e-4 with betas 0.5 and 0.999, batch 64, no average
EXAMPLE = (
    "--arch", "dcgan", "--d-norm", "batch", "--loss", "bce", "--regularizer", "none", "--batch-size", "64",
    "--lr", "2e-4", "--beta1", "0.5", "--beta2", "0.999", "--schedule", "constant", "--ema-images", "0",
)  # fmt: skip
ARCHS: dict[str, tuple[str, ...]] = {"plus": (), "dcgan": EXAMPLE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quality")
    group.add_argument("--quality", action="store_true", help="measure quality in place of throughput")
    group.add_argument("--data", type=Path, metavar="PATH", help="folder or zip of images, or Fashion-MNIST's folder")
    group.add_argument("--train-images", type=int, metavar="N", help="images to train on (default: all the others)")
    group.add_argument("--budget", default="8m", metavar="TIME", help="wall time of a run (default 8m)")
    group.add_argument("--seeds", default="0-2", metavar="LIST", help="a run of each for every layout (default 0-2)")
    group.add_argument("--archs", default=",".join(ARCHS), metavar="LIST", help="layouts (default: plus,dcgan)")
    group.add_argument("--out", type=Path, default=Path("gan-quality"), metavar="DIR", help="what is kept")
    group.add_argument("flags", nargs="*", help="after --: flags of every genkit train-gan, such as --size 32")


def run_all(args: argparse.Namespace) -> str:
    """Every run; the tables, which are also written into --out."""
    if args.data is None:
        raise SystemExit("--quality needs --data PATH")
    args.out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, object]] = []
    kd: dict[str, list[float]] = {arch: [] for arch in args.archs.split(",")}
    with tempfile.TemporaryDirectory(prefix="genkit-benchmark-") as scratch:
        divided = split(args.data, Path(scratch), count=args.train_images)
        judge = Judge(divided.held_out, Path(scratch))
        for seed in seeds(args.seeds):  # in turn: a machine that slows down slows all of them
            for arch in kd:
                out = args.out / f"{arch}-{seed}"
                flags = ("--budget", args.budget, "--seed", seed, *ARCHS[arch], *args.flags)
                done = train(divided.data, out, *flags, may_stop=True)
                found = judge(out)
                sheet(out, args.out / f"{arch}-{seed}.png")
                kd[arch].append(found["kd"])
                seen, steps = (done.report.get(name, 0) for name in ("seen", "steps"))
                lines.append({"run": out.name, "seconds": done.seconds, "images": seen, "steps": steps, **found})
                progress(json.dumps(lines[-1]))
    (args.out / "runs.json").write_text(json.dumps(lines, indent=2) + "\n")
    text = json.dumps({"machine": machine(), "runs": lines}, indent=2) + "\n" if args.json else tables(args, lines, kd)
    (args.out / "table.md").write_text(tables(args, lines, kd))
    return text


def tables(args: argparse.Namespace, lines: list[dict[str, object]], kd: dict[str, list[float]]) -> str:
    """A line a run; below, the layouts side by side where there are two."""
    told = [
        f"{machine()}; {args.data.name}, --budget {args.budget} {' '.join(args.flags)}".rstrip(),
        "",
        f"| run | wall time | images seen | steps | KD, {SAMPLES:,} against {SAMPLES:,} | diversity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        figures = (number(line[name]) for name in ("images", "steps", "kd", "variety"))
        told.append(f"| {line['run']} | {line['seconds']:.0f} s | {' | '.join(figures)} |")
    for arch, values in kd.items():
        told.append(f"| **{arch}, median** | | | | **{number(median(values))}** | |")
    text = "\n".join(told) + "\n"
    if {"plus", "dcgan"} <= kd.keys():
        row = Row("KD from the same minutes, --arch plus", "--arch dcgan, the example's settings", kd["plus"],
                  kd["dcgan"], "KD", "<= 0.5")  # fmt: skip
        text += "\n" + markdown([row])
    return text

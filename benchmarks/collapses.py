"""Ten runs with default flags: does one collapse unnoticed, does one end worse than it was half way?

    python benchmarks/collapses.py --data fruits.zip --data kittens/ --data few/ [--minutes 5] [--runs 10]

The runs take the data sets in turn, each time with another seed. Of every data set a
part is left out, and 1,000 samples of a model are compared with it: KD is the unbiased
kernel distance of EfficientNet-Lite0's features, diversity is a share of the data's.
Judged are the model that a run leaves behind and the one that lay in its folder half
way. A model has collapsed where its diversity is below half of the data's; it is worse
where its KD is more than a twentieth above, the noise between two sets of samples.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from gan_runs import Judge, Run, cores, seeds, sheet, split, train
from harness import machine, number, progress

COLLAPSED = 0.5  # of the data's diversity
NOISE = 0.05  # of a KD
LEAST = 0.005  # KD below which two models are alike
_ALARMS = {
    "collapse": ("warning: collapse", "all alike"),
    "beaten": ("warning: the discriminator tells every fake",),
    "decline": ("warning: the generator has become far worse",),
    "copies": ("warning: memorisation",),
}
_STATE = ("checkpoints", "data", "samples", "best", "tensorboard", ".*")  # in a run's folder, and no part of its model


class HalfWay:
    """Copies the model in a run's folder once, when half of its time is over."""

    def __init__(self, out: Path, copy: Path, seconds: float) -> None:
        self.out, self.copy = out, copy
        self._timer = threading.Timer(seconds, self._keep)

    def __enter__(self) -> HalfWay:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _keep(self) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        with suppress(FileNotFoundError):  # it has not begun
            shutil.copytree(self.out, self.copy, ignore=shutil.ignore_patterns(*_STATE))


def alarms(done: Run) -> list[str]:
    """What a run said that went wrong."""
    told = [name for name, words in _ALARMS.items() if any(word in done.said for word in words)]
    return told + ["stopped"] * (done.code == 6)


def verdict(done: Run, final: dict[str, float], half: dict[str, float] | None) -> dict[str, Any]:
    """What the table says of a run."""
    said = alarms(done)
    unnoticed = not final["variety"] >= COLLAPSED and not {"collapse", "stopped"} & {*said}
    before = half["kd"] if half is not None else math.nan
    return {
        "kd": final["kd"],
        "kd_half_way": before,
        "variety": final["variety"],
        "said": said,
        "unnoticed_collapse": unnoticed,
        "worse": final["kd"] > max(before * (1 + NOISE), before + LEAST),
    }


def one(data: Path, judge: Judge, out: Path, minutes: float, seed: int, flags: list[str]) -> dict[str, Any]:
    """A run and what is to be said of it."""
    copy = out.with_name(f"{out.name}-half-way")
    budget = ("--budget", f"{60 * minutes:g}s", "--seed", seed)
    with HalfWay(out, copy, 30 * minutes):
        done = train(data, out, *budget, *flags, may_stop=True)
    sheet(out, out.with_name(f"{out.name}.png"))
    half = judge(copy) if copy.exists() else None
    return {"run": out.name, "seconds": done.seconds, "code": done.code} | verdict(done, judge(out), half)


def table(found: list[dict[str, Any]]) -> str:
    """A line a run, and the two counts."""
    lines = [
        "| run | images | KD half way | KD at the end | diversity | said | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in found:
        wrong = [name.replace("_", " ") for name in ("unnoticed_collapse", "worse") if run[name]]
        figures = " | ".join(number(run[name]) for name in ("kd_half_way", "kd", "variety"))
        said = ", ".join(run["said"])
        lines.append(f"| {run['run']} | {run['images']:,} | {figures} | {said} | {', '.join(wrong)} |")
    counts = {name: sum(run[name] for run in found) for name in ("unnoticed_collapse", "worse")}
    lines += ["", f"Of {len(found)} runs: {counts['unnoticed_collapse']} unnoticed collapses, "
                  f"{counts['worse']} worse than half way."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="PATH",
                        help="folder or zip of images, or Fashion-MNIST's folder; several times")  # fmt: skip
    parser.add_argument("--runs", type=int, default=10, help="over all data sets (default 10)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run (default 5)")
    parser.add_argument("--seeds", default="0-99", metavar="LIST", help="of the runs on one data set, in order")
    parser.add_argument("--out", type=Path, default=Path("collapses"), metavar="DIR", help="what is kept")
    parser.add_argument("--cores", metavar="LIST", help="CPU cores for everything, e.g. 0 or 0,1 (default: all)")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("flags", nargs="*", help="after --: flags of every genkit train-gan")
    args = parser.parse_args()
    cores(args.cores)
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="genkit-benchmark-") as scratch:
        folders = [Path(scratch, str(i)) for i in range(len(args.data))]
        for folder in folders:
            folder.mkdir()
        divided = [split(data, folder) for data, folder in zip(args.data, folders, strict=True)]
        judges = [Judge(part.held_out, folder) for part, folder in zip(divided, folders, strict=True)]
        for number_ in range(args.runs):
            which, again = number_ % len(args.data), number_ // len(args.data)
            part, seed = divided[which], seeds(args.seeds)[again]
            out = args.out / f"{args.data[which].stem}-{seed}"
            facts = one(part.data, judges[which], out, args.minutes, seed, args.flags)
            found.append({"images": part.count, **facts})
            progress(json.dumps(found[-1]))
            (args.out / "runs.json").write_text(json.dumps(found, indent=2) + "\n")
    print(
        json.dumps({"machine": machine(), "runs": found}, indent=2) + "\n" if args.json
        else f"{machine()}; {args.minutes:g} minutes a run.\n\n{table(found)}",
        end="",
    )  # fmt: skip


if __name__ == "__main__":
    main()

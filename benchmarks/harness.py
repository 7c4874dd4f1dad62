"""What the benchmarks share: contenders in turn, ratios, a table.

A row compares one of ours with one peer. Both run in every round, one after the
other, so that a machine that slows down slows both; a round gives one ratio, the
row states the median of the ratios and their range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
BUILDER = "benchmarks/build_llama_cpp.sh"
MARKERS = ("<!-- benchmarks -->\n", "<!-- /benchmarks -->")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        ours, theirs: one value a round.
        unit: "s", where less is better, or a rate such as "tok/s".
        reach: the ratio to reach, such as "<= 1.6" or ">= 0.95"; None where none was set.
        inverse: state theirs / ours, for "at least N times faster" of seconds.
        note: goes behind our value.
    """

    what: str
    peer: str
    ours: Sequence[float]
    theirs: Sequence[float]
    unit: str
    reach: str | None = None
    inverse: bool = False
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """A ratio a round."""
        return [b / a if self.inverse else a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the median ratio reaches what it is to reach."""
        if self.reach is None:
            return None
        sign, bound = self.reach.split()
        return self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"ratio": self.ratio, "holds": self.holds}


@dataclass(frozen=True)
class Skipped:
    """A row that this machine cannot measure."""

    what: str
    why: str

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


Result = Row | Skipped


def in_turn(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each contender once a round, after one round that does not count.

    The first round fills disk caches, and genkit's cache of converted weights.
    """
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, measure in contenders.items():
            value = measure()
            progress(f"{turn}/{rounds}  {name}  {value:.4g}")
            if turn:
                measured[name].append(value)
    return measured


def process(command: Sequence[str | Path], *, output: Path | None = None, **env: str) -> Callable[[], float]:
    """A contender: the wall time, in seconds, of a whole process that must succeed.

    Its standard output goes to the file `output`, or nowhere.
    """

    def measure() -> float:
        with (output or Path(os.devnull)).open("wb") as sink:
            started = time.perf_counter()
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.PIPE, env=environment(**env)
            )
            seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr.decode()[-2000:]}")
        return seconds

    return measure


def environment(**more: str) -> dict[str, str]:
    """This environment without the network, and without settings for genkit's commands.

    Python may keep what it compiles, as pip does when it installs: the first turn of
    all, which does not count, leaves it for the others.
    """
    settings = ("GENKIT_TEXT", "GENKIT_IMAGE", "GENKIT_TRAIN_TEXT", "GENKIT_EVAL", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "ORT_DISABLE_TELEMETRY": "1"}
    return kept | quiet | more


def genkit(*args: str | Path) -> list[str]:
    """The command line `genkit ARGS`: the installed script, or the module where there is none."""
    installed = Path(sys.executable).with_name("genkit")
    return [*([str(installed)] if installed.exists() else [sys.executable, "-m", "genkit"]), *map(str, args)]


def run(command: Sequence[str | Path], *, cwd: Path | None = None, **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(**env))
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def threads() -> int:
    """Cores for every contender: what genkit itself would take."""
    from genkit.runtime.device import cpu_count

    return cpu_count()


def training_precisions() -> dict[str, str]:
    """Those worth training in on this CPU, and torch's names; bf16 without instructions for it takes minutes a step."""
    from genkit.runtime.device import detect

    return {"fp32": "float32"} | ({"bf16": "bfloat16"} if detect().cpu_bf16 else {})


def machine() -> str:
    """One line about what the figures were measured on."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    wide = [flag for flag in ("avx2", "avx512f") if info.exists() and re.search(rf"\b{flag}\b", info.read_text())]
    packages = []
    for package in ("xllamacpp", "onnxruntime", "torch", "transformers"):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cpu = name[1] if name else platform.processor() or platform.machine()
    return f"{threads()} cores, {cpu}{' with ' + ', '.join(wide) if wide else ''}; {', '.join(packages)}"


def markdown(results: Sequence[Result]) -> str:
    """The table, with a line for each row that was skipped."""
    lines = ["| what | ours | peer | ratio (range) | to reach |", "| --- | --- | --- | --- | --- |"]
    for row in results:
        if isinstance(row, Skipped):
            lines.append(f"| {row.what} | | | not measured: {row.why} | |")
            continue
        ratios = f"**{number(row.ratio)}x** ({number(min(row.ratios))}-{number(max(row.ratios))})"
        reach = {None: "", True: f"{row.reach}", False: f"{row.reach}, missed"}[row.holds]
        ours, theirs = (f"{number(median(values))} {row.unit}" for values in (row.ours, row.theirs))
        lines.append(f"| {row.what} | {ours}{row.note} | {theirs}: {row.peer} | {ratios} | {reach} |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def replace_between_markers(text: str, table: str) -> str:
    """`text` with `table` in place of what stood between the two markers."""
    start, end = MARKERS
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"there is no {start.strip()} ... {end} to fill")
    return before + start + table + end + after


def arguments(doc: str) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--json", action="store_true", help="print every measured value as JSON")
    parser.add_argument(
        "--llama-cpp",
        type=Path,
        metavar="DIR",
        help=f"llama.cpp's binaries, or what {BUILDER} made (default: those on PATH)",
    )
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a clone of karpathy/nanoGPT")
    parser.add_argument("--text", type=Path, metavar="FILE", help="what to train on, such as tiny Shakespeare")
    return parser


def report(results: Sequence[Result], args: argparse.Namespace) -> str:
    """What is printed: JSON, or the machine and the table."""
    if args.json:
        return json.dumps({"machine": machine(), "rows": [row.to_dict() for row in results]}, indent=2) + "\n"
    return f"{machine()}; median of {args.rounds} rounds in turn.\n\n{markdown(results)}"


def main(doc: str | None, measure: Callable[[argparse.Namespace], list[Result]]) -> None:
    """Run one benchmark as a script."""
    args = arguments(doc or "").parse_args()
    print(report(measure(args), args), end="")

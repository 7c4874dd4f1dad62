"""Learning curves: what `metrics.jsonl` says of a run, ready to be drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.files import input_errors, open_regular

METRICS = "metrics.jsonl"  # in a run directory

Row = Mapping[str, float | None]
Points = NDArray[np.float64]

LABELS = {
    "loss": "training loss", "val_loss": "validation loss", "d_loss": "discriminator loss", "g_loss": "generator loss",
}  # fmt: skip
MEASURES = {
    "kd": "kernel distance", "swd": "sliced Wasserstein distance", "diversity": "share of the data's diversity",
}  # fmt: skip
_EVALUATED = {"val_loss", *MEASURES}  # few points, and each is a mean over many batches already
_MARKS = (b'"val_', b'"swd"')  # in the rows of these
_MOST = 4000  # rows of a kind that a picture can show
_WINDOW = 50  # the smoothing looks at a fiftieth of the run to either side
_STEEP = 0.02  # of a run: its first steps may leave the picture at the top
_UNITS = ("tokens", "images")


@dataclass(frozen=True)
class Curve:
    """One quantity over a run.

    Attributes:
        name: the metric's name; `label` says it in words.
        x, y: (N,) finite points, in order.
        line: (N,) the points smoothed, or as they are where they are few.
        dotted: whether the points are evaluations, worth a mark each.
    """

    name: str
    x: Points
    y: Points
    line: Points
    dotted: bool = False

    @property
    def label(self) -> str:
        return (LABELS | MEASURES)[self.name]

    @property
    def falls(self) -> bool:
        """Whether it is an evaluation of which less is better."""
        return self.dotted and self.name != "diversity"

    @property
    def smoothed(self) -> bool:
        """Whether the line is another than the points."""
        return self.line is not self.y


@dataclass(frozen=True)
class Curves:
    """The curves of a run on one x axis.

    Attributes:
        unit: of x: "tokens" or "images" seen, or "steps".
        steps: of the last row.
        losses: at least one, by the order of `LABELS`.
        measures: of `MEASURES`, each with a scale of its own; one distance at most.
        rate: learning rate as a share of its peak, where it was recorded.
    """

    unit: str
    steps: int
    losses: tuple[Curve, ...]
    measures: tuple[Curve, ...]
    rate: Curve | None

    @property
    def end(self) -> float:
        """The largest x, at least 1."""
        return max(1.0, *(float(curve.x[-1]) for curve in self.losses + self.measures))

    def limits(self, shown: Sequence[Curve]) -> tuple[float, float]:
        """Lowest and highest y of some curves worth showing: outliers, and the steep start, are not."""
        lines = np.concatenate([curve.line for curve in shown])
        late = np.concatenate([curve.line[curve.x >= _STEEP * self.end] for curve in shown])
        low, high = float(lines.min()), float(np.quantile(late if late.size else lines, 0.995))
        margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
        return low - margin, high + margin


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The rows of a `metrics.jsonl`, evenly thinned out where there are very many.

    Lines that are no row, such as one cut short by a kill, are passed over; a run
    may be writing the file. Only what is kept is parsed: a million steps take as long
    as forty thousand.

    Raises:
        InputError: no such file.
    """
    with input_errors(path), open_regular(path) as file:
        lines = file.read().splitlines()
    kinds: dict[bool, list[tuple[int, bytes]]] = {False: [], True: []}
    for number, line in enumerate(lines):
        kinds[any(mark in line for mark in _MARKS)].append((number, line))
    kept = sorted(item for kind in kinds.values() for item in _thinned(kind))
    rows = (_row(line) for _, line in kept)
    return [row for row in rows if row is not None]


def curves_of(rows: Sequence[Row]) -> Curves | None:
    """The curves of a run; None where no loss was recorded yet."""
    rows = _as_lasting(rows)
    unit, scale = _axis(rows)
    curves = {name: _curve(name, rows, scale) for name in (*LABELS, *MEASURES, "lr_scale")}
    losses = tuple(curve for name in LABELS if (curve := curves[name]) is not None)
    if not losses:
        return None
    measures = (curves["kd"] or curves["swd"], curves["diversity"])
    measured = tuple(curve for curve in measures if curve is not None)
    steps = max(float(curve.x[-1]) for curve in losses + measured) / scale
    return Curves(unit, round(steps), losses, measured, curves["lr_scale"])


def smooth(y: Points) -> Points:
    """A smooth line through (N,) noisy values: twice over, at each the straight line fitted around it.

    The window shrinks towards the start, where a loss falls steeply; at the end it
    is the last one whole. (Local regression, Cleveland 1979, with even weights.)
    """
    n = len(y)
    at = np.arange(n)
    half = np.minimum(at, n // _WINDOW)
    high = np.minimum(n, at + half + 1)
    low = np.maximum(0, high - 2 * half - 1)
    count = high - low
    x = at.astype(np.float64)

    def mean(values: Points) -> Points:
        total = np.concatenate([[0.0], np.cumsum(values)])
        means: Points = (total[high] - total[low]) / count
        return means

    mean_x = mean(x)
    spread = mean(x * x) - mean_x**2
    for _ in range(2):
        mean_y = mean(y)
        slope = np.divide(mean(x * y) - mean_x * mean_y, spread, out=np.zeros(n), where=spread > 1e-6)
        y = mean_y + slope * (x - mean_x)
    return y


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`, a step of 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """`1.5`, `200k`, `1.2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    return f"{value:.6g}"


def _as_lasting(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of steps that a run took back after a loss that was not finite."""
    lasting: list[Row] = []
    for row in rows:
        step = _number(row.get("step"))
        if step is None:
            continue
        while lasting and _replaces(row, step, lasting[-1]):
            lasting.pop()
        lasting.append(row)
    return lasting


def _replaces(row: Row, step: float, before: Row) -> bool:
    last = _number(before.get("step")) or 0.0
    return last > step or (last == step and before.keys() == row.keys())


def _axis(rows: Sequence[Row]) -> tuple[str, float]:
    """What x counts, and how much of it a step takes, which is the same throughout a run."""
    for row in reversed(rows):
        for unit in _UNITS:
            if (step := _number(row.get("step"))) and (seen := _number(row.get(unit))):
                return unit, seen / step
    return "steps", 1.0


def _curve(name: str, rows: Sequence[Row], scale: float) -> Curve | None:
    pairs = ((_number(row.get("step")), _number(row.get(name))) for row in rows)
    found = [(step * scale, value) for step, value in pairs if step is not None and value is not None]
    if not found:
        return None
    x, y = np.array(found, dtype=np.float64).T
    dotted = name in _EVALUATED
    return Curve(name, x, y, y if dotted or name == "lr_scale" else smooth(y), dotted)


def _thinned(items: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """At most `_MOST` of them, the last one included."""
    stride = math.ceil(len(items) / _MOST) or 1
    return items[::-1][::stride]


def _row(line: bytes) -> dict[str, float | None] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

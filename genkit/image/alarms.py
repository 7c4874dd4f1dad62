"""When to worry: what the numbers of a run say of collapse and of copied training images. Pure, NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

BEATEN, COLLAPSE, DECLINE, COPIES = "beaten", "collapse", "decline", "copies"
NAMES = (BEATEN, COLLAPSE, DECLINE, COPIES)
_WORDS = {
    BEATEN: "the discriminator tells every fake from real, so the generator no longer learns",
    COLLAPSE: "collapse: the generator's pictures differ from one another far less than the data's",
    DECLINE: "the generator has become far worse than its best",
    COPIES: "memorisation: many of the generator's pictures are near-copies of training images",
}
_BEATEN = (0.02, 0.1)  # smoothed loss of the discriminator below which it begins, above which it ends
ALIKE = (0.35, 0.5)  # `variety` below which it begins, above which it ends
COPIED = (0.3, 0.2)  # share of the samples above which it begins, below which it ends
_GRACE = 0.25  # of a run, in which a generator may not yet have begun to differ
_WORSE = 2.0  # times the best distance
_WORSE_BY = {"kd": 0.1, "swd": 0.0}  # and by as much more: kd is near 0 for a good model
_NEIGHBOURS = 10  # that tell how near the training images lie to one another
_COMMON = 0.2  # share of real images that lie as near to another one as near-copies do
_SAME = 1e-4  # squared distance of outlines that are those of one image
_ROWS = 512  # that are compared at a time


class Alarms:
    """Which alarms are on, and which there were; each is told when it begins and when it ends.

    Args:
        state: of `to_dict`, by a run that is resumed.

    Attributes:
        active: name -> step at which it began.
        history: one entry an alarm, with the steps at which it `began` and `ended`, None while it lasts.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.history: list[dict[str, Any]] = [dict(entry) for entry in state.get("history", [])]
        self._differed = bool(state.get("differed", False))  # whether it ever was as diverse as it should be
        self._worse = int(state.get("worse", 0))  # measurements in a row

    @property
    def active(self) -> dict[str, int]:
        return {entry["alarm"]: entry["began"] for entry in self.history if entry["ended"] is None}

    @property
    def broken(self) -> str | None:
        """What was better before, in words; None if nothing was. A generator that never differed did not collapse."""
        names = (*((COLLAPSE,) if self._differed else ()), DECLINE, BEATEN)
        return next((_WORDS[name] for name in names if name in self.active), None)

    def watch(self, step: int, d_loss: float) -> list[str]:
        """Look at the smoothed loss of the discriminator after a step; what is to be told."""
        return self._set(BEATEN, step, _between(d_loss, _BEATEN, BEATEN in self.active))

    def measured(self, step: int, found: Mapping[str, float], *, fraction: float, best: float | None) -> list[str]:
        """Look at a measurement of `Judge`; what is to be told.

        Args:
            fraction: share of the run that is done.
            best: lowest distance before, kd or swd as the judge has it; None at first.
        """
        self._differed |= variety(found) >= ALIKE[1]
        alike = _between(variety(found), ALIKE, COLLAPSE in self.active)
        told = self._set(COLLAPSE, step, alike and (self._differed or fraction > _GRACE))
        metric = "kd" if "kd" in found else "swd"
        worse = best is not None and found[metric] > _WORSE * max(best, 0.0) + _WORSE_BY[metric]
        self._worse = self._worse + 1 if worse else 0
        told += self._set(DECLINE, step, self._worse >= 2 or (worse and DECLINE in self.active))
        # pictures that are alike for want of contrast have the outlines of many
        copied = found["copies"] > COPIED[COPIES in self.active] and (COPIES in self.active or not alike)
        return told + self._set(COPIES, step, copied)

    def went_back(self, step: int) -> None:
        """The run went back from this step to a good model: what was wrong with this one is over."""
        for name in (BEATEN, COLLAPSE, DECLINE):
            self._set(name, step, False)
        self._worse = 0

    def numbers(self) -> dict[str, float]:
        """For each alarm whether it is on, 1 or 0, as metrics."""
        return {f"alarm_{name}": float(name in self.active) for name in NAMES}

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON values."""
        return {"history": self.history, "differed": self._differed, "worse": self._worse}

    def _set(self, name: str, step: int, on: bool) -> list[str]:
        """Switch an alarm; what is to be told if that changes it."""
        if on == (name in self.active):
            return []
        if on:
            self.history.append({"alarm": name, "began": step, "ended": None})
            return [f"warning: {_WORDS[name]} (step {step:,})"]
        entry = next(entry for entry in self.history if entry["alarm"] == name and entry["ended"] is None)
        entry["ended"] = step
        return [f"over since step {step:,}: {_WORDS[name]}"]


def variety(found: Mapping[str, float]) -> float:
    """Of a measurement: the diversity, as a share of the data's, or three times the distinctness, if that is less."""
    return min(found["diversity"], 3 * found["distinct"])


def _between(value: float, limits: tuple[float, float], on: bool) -> bool:
    """Whether a value is too low: below limits[0], or below limits[1] once it was."""
    return value < (limits[1] if on else limits[0])


def summary(history: list[dict[str, Any]]) -> list[str]:
    """A line for each kind of alarm of a run, with when it was on."""
    lines = []
    for name in NAMES:
        spans = [
            f"step {entry['began']:,} to {'the end' if entry['ended'] is None else format(entry['ended'], ',')}"
            for entry in history
            if entry["alarm"] == name
        ]
        if spans:
            lines.append(f"{_WORDS[name]} ({', '.join(spans)})")
    return lines


def distinct(rows: Rows, real: Rows) -> float:
    """Median distance of (N, D) rows to the nearest other one, as a share of that of real ones (M, D).

    Near 0 where a generator knows a few pictures only, also where these differ much, so
    that the mean distance of two of them says nothing. Of both sets as many rows are taken.
    Copies in the data are no neighbours; 1 where most of it is one image.
    """
    n = min(len(rows), len(real))
    own = np.median(np.sqrt(_nearest(rows[:n], rows[:n], 1, own=True)))
    theirs = np.median(np.sqrt(_nearest(real[:n], real[:n], 1, apart=_SAME)))
    return float(own / theirs) if np.isfinite(theirs) else 1.0


class CopyDetector:
    """Tells near-copies of training images from new images.

    The distance to the nearest training image, divided by the mean one to the next few,
    is small for a copy and near 1 for any other image, blurred or not (the ratio is that of
    Carlini et al., arXiv 2301.13188, section 4.2). How small is too small the training
    images say of one another: a fifth of them is nearer to its neighbour than that.

    Args:
        training: (N, D) descriptions of training images, as `outlines` gives.
        images: how many of them, from the first on, are compared with all.
    """

    def __init__(self, training: Rows, images: int = 500) -> None:
        self._training = training
        self._k = min(_NEIGHBOURS, max(1, len(training) // 10))
        ratios = self._ratios(training[:images], apart=_SAME)
        ratios = ratios[np.isfinite(ratios)]
        self.limit = float(np.quantile(ratios, _COMMON)) if len(ratios) else 0.0

    def share(self, rows: Rows) -> float:
        """Estimated share of near-copies among images (N, D): about 0 for new real ones, 1 for copies."""
        near = float((self._ratios(rows) < self.limit).mean())
        return max(0.0, (near - _COMMON) / (1 - _COMMON))

    def _ratios(self, rows: Rows, *, apart: float = 0.0) -> NDArray[np.float64]:
        """Distance to the nearest by the mean distance to the next k, (N,); inf where there are not so many."""
        distances = np.sqrt(_nearest(rows, self._training, self._k + 1, apart=apart))  # (N, k + 1)
        further = distances[:, 1:].mean(1)
        known = np.isfinite(further) & (further > 0)
        ratios: NDArray[np.float64] = np.divide(distances[:, 0], further, out=np.full(len(rows), np.inf), where=known)
        return ratios


def outlines(thumbnails: NDArray[np.floating[Any]], side: int = 16) -> Rows:
    """Thumbnails (N, S, S, C) as rows (N, side * side * C) of mean 0 and length 1, whatever their light and contrast.

    Args:
        side: pixels, at most and by the means of squares; so few that a shift by one of 64 hardly shows.
    """
    n, size, _, channels = thumbnails.shape
    factor = max(1, size // side)
    small = thumbnails.reshape(n, size // factor, factor, size // factor, factor, channels).mean((2, 4)).reshape(n, -1)
    rows = (small - small.mean(1, keepdims=True)).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-4)
    return scaled


def _nearest(rows: Rows, others: Rows, k: int, *, own: bool = False, apart: float = 0.0) -> NDArray[np.float64]:
    """Squared distances (N, k) of (N, D) rows to their nearest in (M, D), in order; inf where there are fewer.

    Args:
        own: the rows are the first of `others`, and none is its own neighbour.
        apart: squared distance below which two images are one: it is not its own neighbour, nor are its copies.
    """
    centre = others.mean(0)  # less of a distance cancels about the middle
    found = np.full((len(rows), k), np.inf)
    x = rows - centre
    for low in range(0, len(others), _ROWS):
        y = others[low : low + _ROWS] - centre
        squares = np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * (x @ y.T), 0)
        if own:
            here = np.arange(low, min(low + len(y), len(x)))
            squares[here, here - low] = np.inf
        squares[squares < apart] = np.inf
        both = np.concatenate([found, squares], axis=1)
        found = np.sort(np.partition(both, k - 1, axis=1)[:, :k], axis=1)
    return found

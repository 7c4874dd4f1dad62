"""Differences between groups, with bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
LEVEL = 0.95

Values = NDArray[np.float64]


class Difference(NamedTuple):
    """The mean of a group less that of the first one.

    Attributes:
        low, high: between them lie 95 % of the means of resampled items; None of a single item.
        apart: the mean size of the differences of the items, whichever way they point.
    """

    value: float
    low: float | None
    high: float | None
    apart: float


def differences(values: Mapping[str, Values], seed: int) -> dict[str, Difference]:
    """Each group but the first against the first, item by item.

    Args:
        values: by group, (N,) each; item i of one group belongs to item i of the others.
    """
    first, *others = values
    return {group: _difference(values[group] - values[first], seed) for group in others}


def _difference(gaps: Values, seed: int) -> Difference:
    mean, apart = float(gaps.mean()), float(np.abs(gaps).mean())
    if len(gaps) < 2:
        return Difference(mean, None, None, apart)
    random = np.random.Generator(np.random.Philox(seed))
    means = np.array([gaps[random.integers(0, len(gaps), len(gaps))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(mean, float(low), float(high), apart)

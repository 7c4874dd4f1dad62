"""The clock of a run: elapsed time across resumes, throughput, time left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from genkit.training.log import Progress
from genkit.training.schedule import Budget

_WINDOW = 50  # steps that the shown rate is averaged over
_SHARE = 0.1  # of the run that evaluating, sampling and saving may take unasked


class Meter:
    """Tells a training loop how far it is.

    Args:
        budget: when the run ends.
        unit: what is counted, "tokens" or "images".
        started: `time.monotonic()` of the command's start, so that a wall-time
            budget pays for imports and data too.
        before: seconds spent by the interrupted runs that this one continues.
    """

    def __init__(self, budget: Budget, unit: str, started: float, before: float = 0.0) -> None:
        self.budget, self.unit = budget, unit
        self._origin = started - before
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._last: dict[str, float] = {}
        self._rested_at = started

    @property
    def elapsed(self) -> float:
        """Seconds of wall time, interrupted runs included."""
        return time.monotonic() - self._origin

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Time a piece of work that the end of the run repeats, such as saving."""
        before = time.monotonic()
        yield
        self._last[name] = time.monotonic() - before
        self._rested_at = time.monotonic()
        self._recent.clear()  # the pause is not part of the training rate

    def rested(self) -> bool:
        """Whether enough training has passed since the last pause for another one of the same length."""
        pause = sum(self._last.values())
        return time.monotonic() - self._rested_at >= pause * (1 - _SHARE) / _SHARE

    def fraction(self, step: int, seen: int) -> float:
        """Share of the run that is done; a wall-time budget keeps back what the end will take."""
        spent = self.elapsed
        if self.budget.seconds is not None:
            reserve = min(1.2 * sum(self._last.values()), 0.5 * self.budget.seconds)
            spent *= self.budget.seconds / (self.budget.seconds - reserve)
        return self.budget.fraction(step, seen, spent)

    def progress(self, step: int, seen: int, fraction: float, values: Mapping[str, float]) -> Progress:
        """The report of one step."""
        self._recent.append((time.monotonic(), seen))
        (t0, seen0), (t1, seen1) = self._recent[0], self._recent[-1]
        rate = (seen1 - seen0) / (t1 - t0) if t1 > t0 else 0.0
        eta = self.elapsed * (1 - fraction) / fraction if fraction > 0 else float("inf")
        return Progress(step, fraction, self.unit, seen, rate, eta, values)

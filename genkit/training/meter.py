"""The clock of a run: elapsed time across resumes, throughput, time left, and what is due."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from genkit.training.log import Progress
from genkit.training.schedule import Budget

_WINDOW = 50  # steps that the shown rate is averaged over
_SHARE = 0.1  # of the run that evaluating, sampling and saving may take unasked
_TIMES_A_RUN = 20
_LONGEST_GAP = 300.0  # seconds


class Meter:
    """Tells a training loop how far it is.

    Args:
        budget: when the run ends.
        unit: what is counted, "tokens" or "images".
        started: `time.monotonic()` of the command's start, so that a wall-time
            budget pays for imports and data too.
        before: seconds spent by the interrupted runs that this one continues.
        pauses: their `pauses`.

    Attributes:
        pauses: seconds that each kind of pause, such as saving, took last.
    """

    def __init__(
        self,
        budget: Budget,
        unit: str,
        started: float,
        before: float = 0.0,
        pauses: Mapping[str, float] | None = None,
    ) -> None:
        self.budget, self.unit = budget, unit
        self.pauses: dict[str, float] = dict(pauses or {})
        self._origin = started - before
        self._rested_at = started
        self._seen = 0
        self._begin: tuple[float, float] | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    @property
    def elapsed(self) -> float:
        """Seconds of wall time, interrupted runs included."""
        return time.monotonic() - self._origin

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Time a pause in the training that the end of the run repeats."""
        before = time.monotonic()
        yield
        self._rested_at = time.monotonic()
        self.pauses[name] = self._rested_at - before
        self._recent.clear()  # the pause is not part of the training rate
        self._recent.append((self._rested_at, self._seen))

    def rested(self) -> bool:
        """Whether there was training enough since the last pause to afford another one."""
        return time.monotonic() - self._rested_at >= sum(self.pauses.values()) * (1 - _SHARE) / _SHARE

    def fraction(self, step: int, seen: int) -> float:
        """Share of the run that is done; a wall-time budget keeps back what the end will take."""
        spent = self.elapsed
        if self.budget.seconds is not None:
            reserve = min(1.2 * sum(self.pauses.values()), 0.5 * self.budget.seconds)
            spent *= self.budget.seconds / (self.budget.seconds - reserve)
        fraction = self.budget.fraction(step, seen, spent)
        if self._begin is None:
            self._begin = (self.elapsed, fraction)
        return fraction

    def progress(self, step: int, seen: int, fraction: float, values: Mapping[str, float]) -> Progress:
        """The report of one step."""
        self._seen = seen
        self._recent.append((time.monotonic(), seen))
        (t0, seen0), (t1, seen1) = self._recent[0], self._recent[-1]
        rate = (seen1 - seen0) / (t1 - t0) if t1 > t0 else 0.0
        since, done = self._begin or (0.0, 0.0)
        # at the pace since the loop began, pauses included
        eta = (self.elapsed - since) * (1 - fraction) / (fraction - done) if fraction > done else float("inf")
        return Progress(step, fraction, self.unit, seen, rate, eta, values)


class Cadence:
    """When one kind of periodic work is due.

    Every `interval` steps; or, where the user gave none, twenty times a run and
    every five minutes, but postponed while pauses would take more than a tenth
    of the run.
    """

    def __init__(self, meter: Meter, interval: int | None, fraction: float) -> None:
        self._meter, self._interval = meter, interval
        self._mark(fraction)

    def due(self, step: int, fraction: float) -> bool:
        """Whether to do it after this step."""
        if self._interval is not None:
            return step % self._interval == 0
        waited = self._meter.elapsed - self._last >= _LONGEST_GAP
        if not (waited or math.floor(fraction * _TIMES_A_RUN) > self._done) or not self._meter.rested():
            return False
        self._mark(fraction)
        return True

    def _mark(self, fraction: float) -> None:
        self._done, self._last = math.floor(fraction * _TIMES_A_RUN), self._meter.elapsed

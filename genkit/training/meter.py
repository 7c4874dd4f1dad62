"""The clock of a run: elapsed time across resumes, throughput, time left, and what is due."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from statistics import fmean

from genkit.training.log import Progress, short
from genkit.training.schedule import Budget

_WINDOW = 50  # steps that the shown rate is averaged over
_REMEMBERED = 5  # pauses of a kind that tell how long the next one takes
_MARKS = 256  # of the run's past that tell its pace
_PROCESS = 0.5  # seconds of a process before its clock starts and after its last pause
_ENOUGH_STEPS, _ENOUGH_SECONDS = 10, 10.0  # that tell a pace
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
        self._pauses = {name: deque([seconds], _REMEMBERED) for name, seconds in (pauses or {}).items()}
        self._cadences: dict[str, Cadence] = {}
        self._origin = started - before
        self._rested_at = started
        self._fraction = 0.0
        self._pace = _Pace()
        self._told = False

    @property
    def elapsed(self) -> float:
        """Seconds of wall time, interrupted runs included."""
        return time.monotonic() - self._origin

    @property
    def pauses(self) -> dict[str, float]:
        """The most seconds that each kind of pause, such as saving, took of late."""
        return {name: max(recent) for name, recent in self._pauses.items()}

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Time a pause in the training that the end of the run repeats."""
        before = time.monotonic()
        self._pace.pause(before)
        yield
        self._rested_at = time.monotonic()
        self._pauses.setdefault(name, deque(maxlen=_REMEMBERED)).append(self._rested_at - before)
        self._pace.go_on(self._rested_at)

    def rested(self) -> bool:
        """Whether there was training enough since the last pause to afford another one."""
        return time.monotonic() - self._rested_at >= sum(self._usual().values()) * (1 - _SHARE) / _SHARE

    def fraction(self, step: int, seen: int) -> float:
        """Share of the run that is done; a wall-time budget keeps back what the end will take.

        It never falls, although the end may turn out to take less.
        """
        spent = self.elapsed
        if self.budget.seconds is not None:
            spent *= self.budget.seconds / (self.budget.seconds - self._reserve())
        self._fraction = max(self._fraction, self.budget.fraction(step, seen, spent))
        if not self._pace.begun:
            self._pace.begin(time.monotonic(), step, seen)
        return self._fraction

    def progress(self, step: int, seen: int, fraction: float, values: Mapping[str, float]) -> Progress:
        """The report of one step."""
        self._pace.mark(time.monotonic(), step, seen)
        return Progress(step, fraction, self.unit, seen, self._pace.rate(), self.left(step, fraction), values)

    def left(self, step: int, fraction: float) -> float:
        """Seconds to the end of the run, its last evaluation, sample and save included; inf when nobody knows yet."""
        end = sum(self._usual().values())
        if self.budget.seconds is not None:
            return max(0.0, self.budget.seconds - self.elapsed - self._reserve() + end)
        pace = self._pace.seconds_a_step()
        if pace is None or fraction <= 0:
            return math.inf
        steps = step / fraction
        training = pace * (steps - step)
        return training + self._pauses_to_come(step, steps, fraction, training) + end

    def outlook(self, progress: Progress, epoch: int) -> str | None:
        """What the budget means, as a sentence, once: as soon as the pace is known.

        Args:
            epoch: tokens or images in the training data.
        """
        if self._told or not self._pace.known():
            return None
        self._told = True
        pace = self._pace.seconds_a_step() or 0.0
        step, fraction = progress.step, progress.fraction
        if self.budget.seconds is not None:
            time_left = max(0.0, self.budget.seconds - self.elapsed - self._reserve())
            pauses = self._pauses_to_come(step, step + time_left / pace, fraction, time_left)
            steps = step + max(0.0, time_left - pauses) / pace
        else:
            steps = step / fraction
        now = datetime.now()
        return budget_line(
            self.unit, progress.seen * steps / step, epoch, steps, now, now + timedelta(seconds=progress.eta)
        )

    def watch(self, name: str, cadence: Cadence) -> None:
        """Count the pauses `name` that `cadence` will bring."""
        self._cadences[name] = cadence

    def _pauses_to_come(self, step: int, steps: float, fraction: float, training: float) -> float:
        """Seconds of the pauses up to step `steps`, during `training` seconds of training; without the end's."""
        usual = self._usual()
        asked = unasked = times = 0.0
        for name, cadence in self._cadences.items():
            if cadence.interval is not None:
                last = math.ceil(steps) - 1
                asked += usual.get(name, 0.0) * max(0, last // cadence.interval - step // cadence.interval)
            else:
                often = max(_TIMES_A_RUN * (1 - fraction) - 1, training / _LONGEST_GAP, 0.0)
                times += often
                unasked += usual.get(name, 0.0) * often
        rest = sum(usual.values()) * (1 - _SHARE) / _SHARE  # seconds of training that go before each
        return asked + unasked * min(1.0, training / (rest * times) if rest * times > 0 else 1.0)

    def _usual(self) -> dict[str, float]:
        return {name: fmean(recent) for name, recent in self._pauses.items()}

    def _reserve(self) -> float:
        """Seconds of a wall-time budget that the end of the run takes."""
        assert self.budget.seconds is not None
        return min(sum(self.pauses.values()) + _PROCESS, 0.5 * self.budget.seconds)


class Cadence:
    """When one kind of periodic work is due.

    Every `interval` steps; or, where the user gave none, twenty times a run and
    every five minutes, but postponed while pauses would take more than a tenth
    of the run.

    Args:
        name: what `Meter.measured` calls the work.
    """

    def __init__(self, meter: Meter, interval: int | None, fraction: float, name: str = "") -> None:
        self._meter, self.interval = meter, interval
        self._mark(fraction)
        meter.watch(name, self)

    def due(self, step: int, fraction: float) -> bool:
        """Whether to do it after this step."""
        if self.interval is not None:
            return step % self.interval == 0
        waited = self._meter.elapsed - self._last >= _LONGEST_GAP
        if not (waited or math.floor(fraction * _TIMES_A_RUN) > self._done) or not self._meter.rested():
            return False
        self._mark(fraction)
        return True

    def _mark(self, fraction: float) -> None:
        self._done, self._last = math.floor(fraction * _TIMES_A_RUN), self._meter.elapsed


class _Pace:
    """Seconds of training, pauses left out, against steps and units."""

    def __init__(self) -> None:
        self._trained = 0.0
        self._since: float | None = None  # when training went on
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)  # seconds trained, units seen
        self._marks: list[tuple[int, float]] = []  # step, seconds trained: evenly over the run so far
        self._stride = 1
        self._now = (0, 0.0)

    @property
    def begun(self) -> bool:
        return bool(self._marks)

    def begin(self, now: float, step: int, seen: int) -> None:
        self._since = now
        self.mark(now, step, seen)

    def pause(self, now: float) -> None:
        if self._since is not None:
            self._trained += now - self._since
            self._since = None

    def go_on(self, now: float) -> None:
        self._since = now

    def mark(self, now: float, step: int, seen: int) -> None:
        """A step is done."""
        self.pause(now)
        self.go_on(now)
        self._now = (step, self._trained)
        self._recent.append((self._trained, seen))
        if not self._marks or step - self._marks[-1][0] >= self._stride:
            self._marks.append(self._now)
            if len(self._marks) > _MARKS:
                del self._marks[1::2]
                self._stride *= 2

    def rate(self) -> float:
        """Units a second of late."""
        (t0, seen0), (t1, seen1) = self._recent[0], self._recent[-1]
        return (seen1 - seen0) / (t1 - t0) if t1 > t0 else 0.0

    def known(self) -> bool:
        """Whether there are enough steps to tell the pace by."""
        steps = self._now[0] - self._marks[0][0]
        return steps >= _ENOUGH_STEPS or (steps >= 2 and self._trained >= _ENOUGH_SECONDS)

    def seconds_a_step(self) -> float | None:
        """Of the later half of the steps so far, at least ten; not of the first one, which may compile."""
        step, trained = self._now
        if step <= self._marks[0][0]:
            return None
        since = step - max(_ENOUGH_STEPS, (step - self._marks[0][0]) // 2)
        first = max(1, bisect_right(self._marks, since, key=lambda mark: mark[0]) - 1)
        before = self._marks[first] if self._marks[first][0] < step else self._marks[0]
        return (trained - before[1]) / (step - before[0])


def budget_line(unit: str, units: float, epoch: int, steps: float, now: datetime, end: datetime) -> str:
    """`about 4.3M tokens, 4.5 epochs, 1,050 steps, until 15:42`

    Args:
        units: tokens or images of the whole run; epoch: those in its data.
        end: when the run is done; its day is told if it is another one than that of `now`.
    """
    day = "" if end.date() == now.date() else f"{end:%A} " if end - now < timedelta(days=6) else f"{end:%d %B} "
    epochs = f"{units / epoch:.2g}" if units < 10 * epoch else f"{units / epoch:,.0f}"
    return f"the budget means about {short(units)} {unit}, {epochs} epochs, {steps:,.0f} steps, until {day}{end:%H:%M}"

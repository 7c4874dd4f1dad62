"""The clock of a run: elapsed time across resumes, throughput, time left, and what is due."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from statistics import fmean

from genkit.training.log import Progress, short
from genkit.training.pace import Pace
from genkit.training.schedule import Budget

_REMEMBERED = 5  # pauses of a kind that tell how long the next one takes
_PROCESS = 0.5  # seconds of a process before its clock starts and after its last pause
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
        self._pace = Pace()
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
        after = time.monotonic()
        if not self._asked(name):
            self._rested_at = after
        self._pauses.setdefault(name, deque(maxlen=_REMEMBERED)).append(after - before)
        self._pace.go_on(after)

    def rested(self) -> bool:
        """Whether there was training enough since the last pause that nobody asked for to afford another one."""
        return time.monotonic() - self._rested_at >= self._rest()

    def fraction(self, step: int, seen: int) -> float:
        """Share of the run that is done; a wall-time budget keeps back what the end will take.

        Of a wall-time budget it never falls, although the end may turn out to take less.
        """
        if not self._pace.begun:
            self._pace.begin(time.monotonic(), seen)
        if self.budget.seconds is None:
            return self.budget.fraction(step, seen, 0.0)
        spent = self.elapsed * self.budget.seconds / (self.budget.seconds - self._reserve())
        self._fraction = max(self._fraction, self.budget.fraction(step, seen, spent))
        return self._fraction

    def progress(self, step: int, seen: int, fraction: float, values: Mapping[str, float]) -> Progress:
        """The report of one step."""
        self._pace.mark(time.monotonic(), seen)
        return Progress(step, fraction, self.unit, seen, self._pace.rate(), self.left(step, fraction), values)

    def left(self, step: int, fraction: float) -> float:
        """Seconds to the end of the run, its last evaluation, sample and save included; inf when nobody knows yet."""
        training, end = self.training_left(step, fraction), sum(self._usual().values())
        if self.budget.seconds is not None or math.isinf(training):
            return training + end
        return training + self._pauses_to_come(step, step / fraction, fraction, training) + end

    def training_left(self, step: int, fraction: float) -> float:
        """Seconds until the end of the run begins; of a wall-time budget with its pauses, else without."""
        pace = self._pace.seconds_a_step()
        by_pace = math.inf if pace is None or fraction <= 0 else pace * step * (1 - fraction) / fraction
        if self.budget.seconds is None:
            return by_pace
        by_clock = max(0.0, self.budget.seconds - self.elapsed - self._reserve())
        return by_clock if self.budget.units is None else min(by_clock, by_pace)

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
            time_left = self.training_left(step, fraction)
            pauses = self._pauses_to_come(step, step + time_left / pace, fraction, time_left)
            if self._cadences.keys() - self._pauses.keys():  # there was no such pause yet
                pauses = max(pauses, _SHARE * time_left)
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

    def any_waits_longer(self, cadence: Cadence, fraction: float) -> bool:
        """Whether another cadence than this one is to have the next pause."""
        since = cadence.waits_since(fraction)
        return any(other.waits_since(fraction) < since for other in self._cadences.values())

    def _pauses_to_come(self, step: int, steps: float, fraction: float, training: float) -> float:
        """Seconds of the pauses up to step `steps`, during `training` seconds of training; without the end's."""
        usual = self._usual()
        asked = unasked = times = 0.0
        for name, cadence in self._cadences.items():
            if cadence.interval is not None:
                last = math.ceil(steps) - 1  # what is due now, after this step, is to come too
                asked += usual.get(name, 0.0) * max(0, last // cadence.interval - (step - 1) // cadence.interval)
            else:
                often = max(_TIMES_A_RUN * (1 - fraction) - 1, training / _LONGEST_GAP, 0.0)
                times += often
                unasked += usual.get(name, 0.0) * often
        needed = self._rest() * times
        return asked + unasked * min(1.0, training / needed if needed > 0 else 1.0)

    def _rest(self) -> float:
        """Seconds of training that go before each unasked pause."""
        return sum(t for name, t in self._usual().items() if not self._asked(name)) * (1 - _SHARE) / _SHARE

    def _asked(self, name: str) -> bool:
        """Whether the user said how often."""
        return name in self._cadences and self._cadences[name].interval is not None

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
    of the run; what has waited longest is done first. Not so near the end, which does
    it anyway, that the run would be over, or the budget be spent, before it is done.

    Args:
        name: what `Meter.measured` calls the work.
    """

    def __init__(self, meter: Meter, interval: int | None, fraction: float, name: str) -> None:
        self._meter, self.interval, self._name = meter, interval, name
        self._mark(fraction)
        meter.watch(name, self)

    def due(self, step: int, fraction: float) -> bool:
        """Whether to do it after this step."""
        meter = self._meter
        fits = meter.training_left(step, fraction) > meter.pauses.get(self._name, 0.0)
        if self.interval is not None:
            return step % self.interval == 0 and (fits or meter.budget.seconds is None)
        if not (fits and self._wanted(fraction) and meter.rested()) or meter.any_waits_longer(self, fraction):
            return False
        self._mark(fraction)
        return True

    def waits_since(self, fraction: float) -> float:
        """`Meter.elapsed` when work that is wanted now was last done; inf where none is wanted."""
        return self._last if self.interval is None and self._wanted(fraction) else math.inf

    def _wanted(self, fraction: float) -> bool:
        waited = self._meter.elapsed - self._last >= _LONGEST_GAP
        return waited or math.floor(fraction * _TIMES_A_RUN) > self._done

    def _mark(self, fraction: float) -> None:
        self._done, self._last = math.floor(fraction * _TIMES_A_RUN), self._meter.elapsed


def budget_line(unit: str, units: float, epoch: int, steps: float, now: datetime, end: datetime) -> str:
    """`about 4.3M tokens, 4.5 epochs, 1,050 steps, until 15:42`

    Args:
        units: tokens or images of the whole run; epoch: those in its data.
        end: when the run is done; its day is told if it is another one than that of `now`.
    """
    day = "" if end.date() == now.date() else f"{end:%A} " if end - now < timedelta(days=6) else f"{end:%d %B} "
    epochs = f"{units / epoch:.2g}" if units < 10 * epoch else f"{units / epoch:,.0f}"
    return f"the budget means about {short(units)} {unit}, {epochs} epochs, {steps:,.0f} steps, until {day}{end:%H:%M}"

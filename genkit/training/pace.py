"""How fast a run trains, its pauses left out."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

_WINDOW = 50  # steps that the shown rate is averaged over
_MARKS = 256  # of the run's past
_ENOUGH_STEPS, _ENOUGH_SECONDS = 10, 10.0  # that tell a pace


class Pace:
    """Seconds of training, pauses left out, against steps and units."""

    def __init__(self) -> None:
        self._trained = 0.0
        self._since: float | None = None  # when training went on
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)  # seconds trained, units seen
        self._marks: list[tuple[int, float]] = []  # steps, seconds trained: evenly over the past
        self._stride = 1
        self._steps = -1  # of this process, those that were taken back too

    @property
    def begun(self) -> bool:
        return bool(self._marks)

    def begin(self, now: float, seen: int) -> None:
        """The first step begins."""
        self._since = now
        self.mark(now, seen)

    def pause(self, now: float) -> None:
        if self._since is not None:
            self._trained += now - self._since
            self._since = None

    def go_on(self, now: float) -> None:
        self._since = now

    def mark(self, now: float, seen: int) -> None:
        """A step is done."""
        self.pause(now)
        self.go_on(now)
        self._steps += 1
        if self._recent and seen < self._recent[-1][1]:  # the run went back to a checkpoint
            self._recent.clear()
        self._recent.append((self._trained, seen))
        if self._steps % self._stride == 0:
            self._marks.append((self._steps, self._trained))
            if len(self._marks) > _MARKS:
                del self._marks[1::2]
                self._stride *= 2

    def rate(self) -> float:
        """Units a second of late."""
        (t0, seen0), (t1, seen1) = self._recent[0], self._recent[-1]
        return (seen1 - seen0) / (t1 - t0) if t1 > t0 else 0.0

    def known(self) -> bool:
        """Whether there are enough steps to tell the pace by."""
        return self._steps >= _ENOUGH_STEPS or (self._steps >= 2 and self._trained >= _ENOUGH_SECONDS)

    def seconds_a_step(self) -> float | None:
        """Of the later half of the steps so far, at least ten; not of the first one, which may compile."""
        if self._steps < 1:
            return None
        since = self._steps - max(_ENOUGH_STEPS, self._steps // 2)
        first = max(1, bisect_right(self._marks, since, key=lambda mark: mark[0]) - 1)
        steps, trained = self._marks[first] if self._steps > 1 else self._marks[0]
        return (self._trained - trained) / (self._steps - steps)

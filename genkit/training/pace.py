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
        if not self._marks or step <= self._marks[0][0]:
            return None
        since = step - max(_ENOUGH_STEPS, (step - self._marks[0][0]) // 2)
        first = max(1, bisect_right(self._marks, since, key=lambda mark: mark[0]) - 1)
        before = self._marks[first] if self._marks[first][0] < step else self._marks[0]
        return (trained - before[1]) / (step - before[0])

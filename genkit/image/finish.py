"""How much a generator's finished pictures are smoothed: as much as measures best, found on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from genkit.image.config import parse_levels
from genkit.image.judge import Judge
from genkit.image.modelconfig import PlusConfig
from genkit.image.models.networks import Generator

LADDER: tuple[float, ...] = (0.0, 3.0, 5.0, 8.0, 12.0, 18.0)  # levels of 255
LEVELS = "smoothing"  # among the numbers of a measurement


class Smoothing:
    """Walks a ladder of levels: each measurement also tries the rungs to one side, as long as they are better.

    The next one looks to the other side. So a good level is found at once, and followed
    while the pictures become less noisy.

    Args:
        asked: `--smoothing`: auto, off, or levels.
        saved: `to_dict` of the run that this one continues.

    Attributes:
        tries: how often a measurement usually measures.
    """

    def __init__(self, asked: str, saved: Mapping[str, Any] | None = None) -> None:
        match asked:
            case "auto":
                self._ladder = LADDER
            case "off":
                self._ladder = (0.0,)
            case _:
                self._ladder = (parse_levels(asked),)
        self.tries = min(2, len(self._ladder))
        self.restore(saved)

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        """Back to where it was."""
        self._rung: int = saved["rung"] if saved else 0
        self._way: int = saved["way"] if saved else 1

    def to_dict(self) -> dict[str, int]:
        return {"rung": self._rung, "way": self._way}

    def apply(self, generator: Generator) -> None:
        """Let a generator smooth its pictures as was found best; the example's layout has no such thing."""
        self._set(generator, self._rung)

    def measure(self, generator: Generator, judge: Judge) -> dict[str, float]:
        """The numbers of the best rung that was tried, and its levels as `smoothing`; `adopt` goes there."""
        rung, found = self._rung, self._numbers(generator, judge, self._rung)
        if not 0 <= rung + self._way < len(self._ladder):
            self._way = -self._way
        while 0 <= rung + self._way < len(self._ladder):
            numbers = self._numbers(generator, judge, rung + self._way)
            if numbers[judge.metric] >= found[judge.metric]:
                break
            rung, found = rung + self._way, numbers
        return found

    def adopt(self, found: Mapping[str, float]) -> None:
        """Go to the rung of a measurement, and look to the other side next."""
        self._rung, self._way = self._ladder.index(found.get(LEVELS, self._ladder[0])), -self._way

    def _numbers(self, generator: Generator, judge: Judge, rung: int) -> dict[str, float]:
        self._set(generator, rung)
        numbers = judge.measure(generator)
        return numbers | {LEVELS: self._ladder[rung]} if isinstance(generator.config, PlusConfig) else numbers

    def _set(self, generator: Generator, rung: int) -> None:
        if isinstance(generator.config, PlusConfig):
            generator.config = replace(generator.config, smoothing=self._ladder[rung])

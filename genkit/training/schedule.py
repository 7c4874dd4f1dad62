"""How long a run is, and what the learning rate does on the way.

A run is measured in one of three ways: optimiser steps, units of data (tokens or
images) or wall time. Everything that unfolds over a run (warm-up, cool-down,
intervals) is a function of the fraction done, so that it fits any of the three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from genkit.errors import UsageError

DEFAULT_SECONDS = 600.0


@dataclass(frozen=True)
class Budget:
    """`steps`, `units` or `seconds` end the run, whichever comes first; at least one of them is given."""

    seconds: float | None = None
    steps: int | None = None
    units: int | None = None

    @classmethod
    def of(cls, *, budget: float | None, steps: int | None, units: int | None, unit: str) -> Budget:
        """The budget that the flags ask for; ten minutes if none is given.

        Raises:
            UsageError: more than one of them is given.
        """
        given = {"--budget": budget, "--steps": steps, f"--{unit}": units}
        named = [flag for flag, value in given.items() if value is not None]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} both say when to stop", "give one of them")
        return cls(seconds=budget if named else DEFAULT_SECONDS, steps=steps, units=units)

    def fraction(self, step: int, seen: int, elapsed: float) -> float:
        """Share of the run that is done, from 0 to 1."""
        shares = ((step, self.steps), (seen, self.units), (elapsed, self.seconds))
        return min(1.0, max(done / whole for done, whole in shares if whole is not None))

    def capped(self, units: int) -> Budget:
        """A budget of wall time that ends after `units` of data too; others as they are."""
        return self if self.seconds is None else replace(self, units=units)

    def steps_to_take(self, units_a_step: int, seconds_a_step: float) -> int:
        """About how many steps the whole run has."""
        counts = []
        if self.steps is not None:
            counts.append(self.steps)
        if self.units is not None:
            counts.append(math.ceil(self.units / units_a_step))
        if self.seconds is not None:
            counts.append(max(1, int(self.seconds / seconds_a_step)))
        return min(counts)


def lr_scale(schedule: str, fraction: float, *, warmup: float, cooldown: float, floor: float = 0.0) -> float:
    """Learning rate at `fraction` of the run, as a share of its peak.

    `wsd` is warm-up, stable, linear decay (Hu et al. 2024); `cosine` decays from
    the end of the warm-up on (Loshchilov and Hutter 2017); `linear`, the GAN's
    name, is `wsd`.
    """
    if fraction < warmup:
        # never zero: the first step must move
        return max(fraction / warmup, 0.01)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        done = (fraction - warmup) / max(1e-12, 1 - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    left = (1 - fraction) / cooldown if cooldown > 0 else 1.0
    return floor + (1 - floor) * min(1.0, max(0.0, left))

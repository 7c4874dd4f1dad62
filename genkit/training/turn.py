"""What the ranks of a run agree on: how a batch is divided, and after each step which branch they all take."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from genkit.errors import UsageError
from genkit.runtime.ranks import Ranks
from genkit.training.stop import StopSignal


@dataclass(frozen=True)
class Turn:
    """The state of a run after a step, the same on every rank.

    Attributes:
        loss: the sum of the ranks' shares.
        fraction: of the run that is done.
        stopped: whether a signal asks to stop. One that comes after the message counts in the
            next turn, or else a rank would save while the others go on.
        due: what is to be done now.
    """

    loss: float
    fraction: float
    stopped: bool
    due: frozenset[str]


def check_split(batch_size: int, ranks: Ranks) -> None:
    """Each rank takes as many rows of a batch as the others.

    Raises:
        UsageError: the batch does not divide.
    """
    if batch_size % ranks.world_size:
        near = max(1, round(batch_size / ranks.world_size)) * ranks.world_size
        raise UsageError(f"--batch-size {batch_size} does not divide over {ranks.world_size} processes", f"use {near}")


def agree(ranks: Ranks, *, loss: float, fraction: float, due: Mapping[str, bool], stop: StopSignal) -> Turn:
    """One message a step: losses are added, a signal that one rank got stops all, and rank 0's clock counts."""
    rows = ranks.gather([loss, float(stop.received or 0), fraction, *due.values()])
    if received := max(int(row[1]) for row in rows):
        stop.received = signal.Signals(received)
    _, _, done, *flags = rows[0]
    wanted = frozenset(name for name, flag in zip(due, flags, strict=True) if flag)
    return Turn(sum(row[0] for row in rows), done, bool(received), wanted)

"""What ranks agree on, without other processes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from genkit.training.stop import StopSignal
from genkit.training.turn import agree


class TwoRanks:
    """This rank is the second one; the first says `main`, and perhaps something happens meanwhile."""

    def __init__(self, main: list[float], meanwhile: Any = lambda: None) -> None:
        self.main, self.meanwhile = main, meanwhile

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        self.meanwhile()
        return [self.main, list(values)]


def turn_of(ranks: Any, stop: StopSignal) -> Any:
    return agree(ranks, loss=0.5, fraction=0.9, due={"eval": False, "save": True}, stop=stop)


def test_losses_add_up_and_the_first_rank_has_the_clock() -> None:
    turn = turn_of(TwoRanks([1.25, 0, 0.4, True, False]), StopSignal())
    assert (turn.loss, turn.fraction, turn.stopped, turn.due) == (1.75, 0.4, False, {"eval"})


def test_a_signal_that_one_rank_got_stops_all() -> None:
    stop = StopSignal()
    assert turn_of(TwoRanks([0, signal.SIGTERM, 0.4, False, False]), stop).stopped
    assert stop.received is signal.SIGTERM


def test_a_signal_that_came_after_the_message_waits_for_the_next() -> None:
    stop = StopSignal()

    def arrive() -> None:
        stop.received = signal.SIGINT

    main = [0.0, 0.0, 0.4, 0.0, 0.0]
    assert not turn_of(TwoRanks(main, arrive), stop).stopped
    assert stop.received is signal.SIGINT
    assert turn_of(TwoRanks(main), stop).stopped

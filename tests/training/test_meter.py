import pytest

from genkit.training import meter as module
from genkit.training.meter import Cadence, Meter
from genkit.training.schedule import Budget


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(module, "time", fake)
    return fake


def test_elapsed_counts_from_the_start_and_over_resumes(clock: Clock) -> None:
    meter = Meter(Budget(seconds=100), "tokens", started=90.0, before=25.0)
    assert meter.elapsed == 35.0


def test_a_budget_keeps_back_the_time_of_the_end(clock: Clock) -> None:
    meter = Meter(Budget(seconds=100), "tokens", started=100.0)
    with meter.measured("save"):
        clock.now += 10
    clock.now = 144.75  # half of 100 less the save and the process itself
    assert meter.fraction(0, 0) == pytest.approx(0.5)
    clock.now = 189.5
    assert meter.fraction(0, 0) == pytest.approx(1.0)


def test_steps_are_not_shortened_by_pauses(clock: Clock) -> None:
    meter = Meter(Budget(steps=10), "tokens", started=100.0)
    with meter.measured("save"):
        clock.now += 1000
    assert meter.fraction(5, 0) == 0.5


def test_rate_and_time_left(clock: Clock) -> None:
    meter = Meter(Budget(steps=8), "images", started=100.0)
    clock.now += 60  # reading data is no part of the pace
    assert meter.fraction(0, 0) == 0.0
    clock.now += 2
    assert meter.progress(1, 32, 0.125, {}).eta == 14.0
    clock.now += 2
    progress = meter.progress(2, 64, 0.25, {"loss": 1.0})
    assert (progress.rate, progress.eta, progress.unit) == (16.0, 12.0, "images")


def test_pauses_take_a_tenth_of_the_time_at_most(clock: Clock) -> None:
    meter = Meter(Budget(seconds=1000), "tokens", started=100.0)
    with meter.measured("eval"):
        clock.now += 10
    clock.now += 89
    assert not meter.rested()
    clock.now += 1
    assert meter.rested()


def test_the_rate_goes_on_after_a_pause(clock: Clock) -> None:
    meter = Meter(Budget(steps=100), "tokens", started=100.0)
    clock.now += 2
    meter.progress(1, 20, 0.01, {})
    with meter.measured("save"):
        clock.now += 50
    clock.now += 2
    assert meter.progress(2, 40, 0.02, {}).rate == 10.0


def test_a_resumed_run_knows_what_its_end_takes(clock: Clock) -> None:
    first = Meter(Budget(seconds=100), "tokens", started=100.0)
    with first.measured("save"):
        clock.now += 10
    second = Meter(Budget(seconds=100), "tokens", started=clock.now, before=44.75, pauses=first.pauses)
    assert second.fraction(0, 0) == pytest.approx(0.5)


def test_cadence_by_steps() -> None:
    cadence = Cadence(Meter(Budget(steps=12), "tokens", started=0.0), 4, 0.0, "eval")
    assert [step for step in range(1, 13) if cadence.due(step, step / 12)] == [4, 8, 12]


def test_cadence_twenty_times_a_run_and_every_five_minutes(clock: Clock) -> None:
    meter = Meter(Budget(steps=1000), "tokens", started=100.0)
    cadence = Cadence(meter, None, 0.0, "eval")
    hits = []
    for step in range(1, 201):
        clock.now += 1
        if cadence.due(step, step / 1000):
            hits.append(step)
    assert hits == [50, 100, 150, 200]
    slow = Cadence(meter, None, 0.2, "eval")
    clock.now += 299
    assert not slow.due(201, 0.201)
    clock.now += 1
    assert slow.due(202, 0.202)


def test_cadence_is_postponed_not_skipped(clock: Clock) -> None:
    meter = Meter(Budget(steps=1000), "tokens", started=100.0)
    cadence = Cadence(meter, None, 0.0, "eval")
    with meter.measured("eval"):
        clock.now += 10
    clock.now += 50
    assert not cadence.due(50, 0.05)  # due, but too soon after the last pause
    clock.now += 40
    assert cadence.due(60, 0.06)
    assert not cadence.due(61, 0.061)

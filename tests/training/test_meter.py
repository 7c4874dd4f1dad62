import pytest

from genkit.training import meter as module
from genkit.training.meter import Meter
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
    clock.now = 188.0  # 100 less 1.2 times the save
    assert meter.fraction(0, 0) == pytest.approx(1.0)
    clock.now = 144.0
    assert meter.fraction(0, 0) == pytest.approx(0.5)


def test_steps_are_not_shortened_by_pauses(clock: Clock) -> None:
    meter = Meter(Budget(steps=10), "tokens", started=100.0)
    with meter.measured("save"):
        clock.now += 1000
    assert meter.fraction(5, 0) == 0.5


def test_rate_and_time_left(clock: Clock) -> None:
    meter = Meter(Budget(steps=8), "images", started=100.0)
    meter.progress(0, 0, 0.0, {})
    clock.now += 4
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

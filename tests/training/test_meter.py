from datetime import datetime, timedelta
from random import Random

import pytest

from genkit.training import meter as module
from genkit.training.meter import Cadence, Meter, budget_line
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


def test_a_budget_of_time_that_the_data_ends_first(clock: Clock) -> None:
    meter = Meter(Budget(seconds=1000, units=320), "tokens", started=100.0)
    meter.fraction(0, 0)
    for step in range(1, 4):
        clock.now += 2
        fraction = meter.fraction(step, 32 * step)
        progress = meter.progress(step, 32 * step, fraction, {})
    assert fraction == pytest.approx(0.3)
    assert progress.eta == pytest.approx(14.0)  # seven steps more
    slow = Meter(Budget(seconds=10.5, units=10**9), "tokens", started=clock.now)
    slow.fraction(0, 0)
    clock.now += 2
    assert slow.progress(1, 32, slow.fraction(1, 32), {}).eta == pytest.approx(8.0)


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


def test_unasked_pauses_take_turns(clock: Clock) -> None:
    """Evaluations, wanted again whenever there is room for one, leave room for saves."""
    meter = Meter(Budget(steps=1000), "tokens", started=100.0)
    cadences = {name: Cadence(meter, None, 0.0, name) for name in ("eval", "save")}
    order = []
    for step in range(1, 1000):
        clock.now += 1
        for name, cadence in cadences.items():
            if cadence.due(step, step / 1000):
                order.append(name)
                with meter.measured(name):
                    clock.now += 5
    assert order[2:] == ["eval", "save"] * ((len(order) - 2) // 2)
    assert len(order) * 5 <= 0.11 * 1000


def test_pauses_that_the_user_asked_for_cost_the_others_nothing(clock: Clock) -> None:
    meter = Meter(Budget(steps=1000), "tokens", started=100.0)
    asked, unasked = Cadence(meter, 10, 0.0, "eval"), Cadence(meter, None, 0.0, "save")
    saves = 0
    for step in range(1, 1000):
        clock.now += 1
        if asked.due(step, step / 1000):
            with meter.measured("eval"):
                clock.now += 50
        if unasked.due(step, step / 1000):
            saves += 1
            with meter.measured("save"):
                clock.now += 1
    assert saves == 19


def test_no_pause_begins_that_the_end_repeats_at_once(clock: Clock) -> None:
    meter = Meter(Budget(seconds=100), "tokens", started=100.0)
    with meter.measured("save"):
        clock.now += 4
    cadence, asked = Cadence(meter, None, 0.0, "save"), Cadence(meter, 1, 0.0, "eval")
    clock.now = 100 + 91.4  # the end begins at 95.5
    assert cadence.due(1, 0.9)
    clock.now = 100 + 91.6
    assert asked.due(2, 0.95)
    assert not Cadence(meter, 1, 0.0, "save").due(2, 0.95)
    longer = Meter(Budget(steps=100), "tokens", started=clock.now)
    with longer.measured("save"):
        clock.now += 4
    asked, unasked = Cadence(longer, 1, 0.0, "eval"), Cadence(longer, None, 0.0, "save")
    longer.fraction(0, 0)
    for step in range(1, 98):
        clock.now += 1
        longer.progress(step, step, step / 100, {})
    assert asked.due(97, 0.97)
    assert not unasked.due(97, 0.97)  # three steps are left


def test_what_a_run_takes_back_counts_for_its_pace_but_not_for_its_rate(clock: Clock) -> None:
    meter = Meter(Budget(steps=100), "tokens", started=100.0)
    meter.fraction(0, 0)
    for step in (1, 2, 3, 4, 2, 3):
        clock.now += 2
        progress = meter.progress(step, 10 * step, meter.fraction(step, 10 * step), {})
    assert (progress.rate, progress.eta) == (5.0, pytest.approx(97 * 2))


def test_the_reserve_is_the_longest_pause_of_late(clock: Clock) -> None:
    meter = Meter(Budget(seconds=1000), "tokens", started=100.0)
    for seconds in (9, 1, 2, 5, 1, 3):
        with meter.measured("save"):
            clock.now += seconds
    assert meter.pauses == {"save": 5}


def simulated(clock: Clock, seed: int) -> tuple[list[tuple[float, float]], float, float]:
    """A run with all that makes foretelling hard.

    A slow first step, steps of uneven length that grow by up to a quarter over the run,
    another pace from early on, evaluations, samples and saves, asked for or not, that grow.

    Returns:
        time of day and seconds left as they were told, from a quarter of the run on;
        the longest of the other steps; seconds over the budget.
    """
    random = Random(seed)
    steps, usual = random.choice([100, 300, 1000, 3000]), 10 ** random.uniform(-2, 1)
    whole = steps * usual
    budget = random.choice([Budget(steps=steps), Budget(units=32 * steps - 5), Budget(seconds=1.3 * whole + 10)])
    compiling, jump, faster = random.choice([1, 20]), random.uniform(0, 0.1), random.uniform(0.6, 2)
    drift, growth = random.uniform(-0.15, 0.25), random.uniform(1, 1.3)
    intervals = {name: random.choice([None, steps // random.randint(3, 30)]) for name in ("eval", "sample", "save")}
    lengths = {name: whole * 10 ** random.uniform(-4, -2) for name in intervals}

    begin = clock.now
    meter = Meter(budget, "tokens", started=begin)

    def pause(name: str, fraction: float) -> None:
        with meter.measured(name):
            clock.now += lengths[name] * (1 + (growth - 1) * fraction) * random.uniform(0.95, 1.05)

    clock.now += random.uniform(0, 0.05) * whole  # imports and data
    pause("save", 0)
    fraction = meter.fraction(0, 0)
    cadences = {name: Cadence(meter, interval, fraction, name) for name, interval in intervals.items()}
    told, longest, step = [], 0.0, 0
    while fraction < 1:
        pace = usual * (1 + drift * fraction) * (faster if fraction >= jump else 1) * random.uniform(0.8, 1.25)
        clock.now += pace * (compiling if step == 0 else 1)
        longest, step = max(longest, pace), step + 1
        fraction = meter.fraction(step, 32 * step)
        progress = meter.progress(step, 32 * step, fraction, {})
        if fraction >= 0.25:
            told.append((clock.now, progress.eta))
        for name, cadence in cadences.items():
            if fraction < 1 and cadence.due(step, fraction):
                pause(name, fraction)
    for name in cadences:
        pause(name, 1)
    return told, longest, clock.now - begin - (budget.seconds or clock.now)


@pytest.mark.parametrize("seed", range(60))
def test_time_left_is_right_within_a_fifth_from_a_quarter_of_the_run_on(clock: Clock, seed: int) -> None:
    told, longest, over = simulated(clock, seed)
    for now, eta in told:
        left = clock.now - now
        assert abs(eta - left) <= 0.2 * left + 2 * longest
    assert over <= longest + 0.01 * len(told)


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (Budget(steps=1000), "about 32.0k tokens, 3.2 epochs, 1,000 steps"),
        (Budget(units=64_000), "about 64.0k tokens, 6.4 epochs, 2,000 steps"),
        (Budget(seconds=1000 / 2), "about 32.0k tokens, 3.2 epochs, 999 steps"),
    ],
)
def test_what_a_budget_means_is_told_once(clock: Clock, budget: Budget, line: str) -> None:
    meter = Meter(budget, "tokens", started=clock.now)
    meter.fraction(0, 0)
    told = []
    for step in range(1, 30):
        clock.now += 0.5
        progress = meter.progress(step, 32 * step, meter.fraction(step, 32 * step), {})
        told.append(meter.outlook(progress, epoch=10_000))
    assert told[:9] == [None] * 9
    assert told[9] is not None
    assert told[9].startswith(f"the budget means {line}, until ")
    assert set(told[10:]) == {None}


def test_the_line_names_another_day() -> None:
    now = datetime(2026, 5, 1, 23, 0)

    def line(hours: float, units: float = 4.3e6) -> str:
        return budget_line("tokens", units, 1_000_000, 1050.4, now, now + timedelta(hours=hours))

    assert line(0.5) == "the budget means about 4.3M tokens, 4.3 epochs, 1,050 steps, until 23:30"
    assert line(2).endswith("until Saturday 01:00")
    assert line(24 * 30).endswith("until 31 May 23:00")
    assert " 0.043 epochs," in line(1, 43_000)
    assert " 1,200 epochs," in line(1, 1.2e9)

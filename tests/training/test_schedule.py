import math

import pytest

from genkit.errors import UsageError
from genkit.training.schedule import DEFAULT_SECONDS, Budget, lr_scale


def test_a_budget_is_one_of_three() -> None:
    def of(**given: float | None) -> Budget:
        return Budget.of(**{"budget": None, "steps": None, "units": None} | given, unit="tokens")

    assert of(steps=10).fraction(3, 0, 0) == 0.3
    assert of(units=200).fraction(0, 50, 0) == 0.25
    assert of(budget=60).fraction(0, 0, 90) == 1
    assert of() == Budget(seconds=DEFAULT_SECONDS)
    with pytest.raises(UsageError, match="--steps and --tokens both say when to stop"):
        of(steps=10, units=200)


def test_wall_time_may_end_with_the_data_too() -> None:
    capped = Budget(seconds=100).capped(1000)
    assert capped.fraction(0, 400, 30) == 0.4
    assert capped.fraction(0, 400, 50) == 0.5
    assert capped.fraction(0, 1200, 50) == 1
    assert (capped.steps_to_take(10, 0.5), capped.steps_to_take(10, 2.0)) == (100, 50)
    assert Budget(steps=7).capped(1000) == Budget(steps=7)


def test_wsd_is_a_trapezoid() -> None:
    def at(fraction: float) -> float:
        return lr_scale("wsd", fraction, warmup=0.1, cooldown=0.4, floor=0.1)

    assert at(0.05) == pytest.approx(0.5)
    assert at(0.1) == at(0.3) == at(0.6) == 1
    assert at(0.8) == pytest.approx(0.1 + 0.9 * 0.5)
    assert at(1) == pytest.approx(0.1)


def test_cosine_and_constant() -> None:
    assert lr_scale("cosine", 0.55, warmup=0.1, cooldown=0, floor=0) == pytest.approx(0.5)
    assert lr_scale("cosine", 1, warmup=0.1, cooldown=0, floor=0.2) == pytest.approx(0.2)
    assert lr_scale("cosine", 0.325, warmup=0.1, cooldown=0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert lr_scale("constant", 0.99, warmup=0.1, cooldown=0.4) == 1


def test_the_first_step_moves() -> None:
    assert lr_scale("wsd", 0.0, warmup=0.1, cooldown=0.1) > 0


def test_how_many_steps_a_run_takes() -> None:
    assert Budget(steps=7).steps_to_take(64, 0.1) == 7
    assert Budget(units=1000).steps_to_take(64, 0.1) == 16
    assert Budget(seconds=60).steps_to_take(64, 0.25) == 240
    assert Budget(seconds=1).steps_to_take(64, 9.0) == 1

"""How much is smoothed: the rung that measures best."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from genkit.image.finish import LADDER, Smoothing
from genkit.image.modelconfig import DCGANConfig, PlusConfig


class FakeJudge:
    """Sees how much a generator's pictures are smoothed, and nothing else."""

    metric = "kd"

    def __init__(self, kd: dict[float, float]) -> None:
        self.kd, self.asked = kd, []

    def measure(self, generator: Any) -> dict[str, float]:
        self.asked.append(generator.config.smoothing)
        return {"kd": self.kd[generator.config.smoothing], "swd": 1.0}


def walk(smoothing: Smoothing, judge: Any, times: int) -> list[float]:
    """The levels that so many measurements in turn lead to."""
    generator: Any = SimpleNamespace(config=PlusConfig())
    visited = []
    for _ in range(times):
        found = smoothing.measure(generator, judge)
        assert found["kd"] == judge.kd[found["smoothing"]]
        smoothing.adopt(found)
        smoothing.apply(generator)
        assert generator.config.smoothing == found["smoothing"]
        visited.append(found["smoothing"])
    return visited


def kd(*values: float) -> dict[float, float]:
    return dict(zip(LADDER, values, strict=True))


GOOD = kd(0.2, 0.199, 0.13, 0.1, 0.11, 0.2)


def test_finds_the_best_at_once_and_then_looks_to_either_side() -> None:
    judge = FakeJudge(GOOD)
    assert walk(Smoothing("auto"), judge, 3) == [8, 8, 8]
    assert judge.asked == [0, 3, 5, 8, 12, 8, 5, 8, 12]


def test_comes_down_where_less_is_better_later() -> None:
    smoothing = Smoothing("auto", {"rung": 4, "way": 1})
    assert walk(smoothing, FakeJudge(kd(0.05, 0.06, 0.07, 0.08, 0.09, 0.1)), 3) == [12, 0, 0]


@pytest.mark.parametrize("values", [(0.1,) * 6, (-0.0010, -0.00099, 0, 0, 0, 0), (0.1, 0.2, 0, 0, 0, 0)])
def test_what_gains_nothing_smooths_nothing(values: tuple[float, ...]) -> None:
    judge = FakeJudge(kd(*values))
    assert walk(Smoothing("auto"), judge, 4) == [0, 0, 0, 0]
    assert judge.asked == [0, 3] * 4  # there is one side only


def test_the_top_of_the_ladder() -> None:
    judge = FakeJudge(kd(0.6, 0.5, 0.4, 0.3, 0.2, 0.1))
    assert walk(Smoothing("auto"), judge, 3) == [18, 18, 18]
    assert judge.asked == [*LADDER, 18, 12, 18, 12]


@pytest.mark.parametrize(("asked", "levels"), [("off", 0.0), ("7", 7.0)])
def test_what_is_asked_for_is_measured_once(asked: str, levels: float) -> None:
    judge, smoothing = FakeJudge({levels: 0.3}), Smoothing(asked)
    assert walk(smoothing, judge, 3) == judge.asked == [levels] * 3
    assert smoothing.tries == 1


@pytest.mark.parametrize("first", [1, 2, 3])
def test_goes_on_where_it_was(first: int) -> None:
    def measured(smoothing: Smoothing, times: int) -> list[float]:
        judge = FakeJudge(GOOD)
        walk(smoothing, judge, times)
        return judge.asked

    begun = Smoothing("auto")
    before = measured(begun, first)
    assert before + measured(Smoothing("auto", begun.to_dict()), 6 - first) == measured(Smoothing("auto"), 6)
    begun.restore(None)
    assert begun.to_dict() == Smoothing("auto").to_dict()


def test_the_example_stays_as_it_is() -> None:
    generator: Any = SimpleNamespace(config=DCGANConfig())
    smoothing, judge = Smoothing("off"), SimpleNamespace(metric="kd", measure=lambda generator: {"kd": 0.3})
    found = smoothing.measure(generator, judge)  # type: ignore[arg-type]
    smoothing.adopt(found)
    smoothing.apply(generator)
    assert (found, generator.config) == ({"kd": 0.3}, DCGANConfig())

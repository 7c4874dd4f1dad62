"""How good a model is, in words."""

from __future__ import annotations

import pytest

from genkit.image.verdict import verdict

GOOD = {"kd": 0.03, "kd_floor": 0.001, "swd": 1.0, "swd_floor": 0.5, "diversity": 0.9, "distinct": 0.8, "copies": 0.02}


@pytest.mark.parametrize(
    ("kd", "words"),
    [
        (0.03, "very near to the data"),
        (0.15, "near to the data"),
        (0.4, "like the data at a glance"),
        (0.9, "far from the data"),
    ],
)
def test_kd_has_words(kd: float, words: str) -> None:
    line, *_ = verdict(GOOD | {"kd": kd}, metric="kd")
    assert line.startswith(f"how good it is: its pictures are {words}")
    assert f"{kd:.3f}, lower is better; of real images to one another 0.001" in line


def test_other_distances_have_none() -> None:
    assert verdict(GOOD, metric="swd")[0] == (
        "how good it is: sliced Wasserstein distance 1.000, lower is better; of real images to one another 0.500"
    )


@pytest.mark.parametrize(
    ("changes", "alike"), [({}, False), ({"diversity": 0.2}, True), ({"distinct": 0.05}, True)], ids=str
)
def test_variety(changes: dict[str, float], alike: bool) -> None:
    assert ("all alike" in verdict(GOOD | changes, metric="kd")[1]) is alike


def test_memorisation() -> None:
    assert verdict(GOOD, metric="kd")[2].startswith("memorisation: no sign of it, 2% of its pictures")
    assert "about 60% of its pictures are near-copies" in verdict(GOOD | {"copies": 0.6}, metric="kd")[2]


def test_pictures_that_are_all_alike_are_not_called_copies() -> None:
    assert verdict(GOOD | {"diversity": 0.04, "copies": 1.0}, metric="kd")[2].endswith("while they are all alike")

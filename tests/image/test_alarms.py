"""Alarms speak when they should, once, and not otherwise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from genkit.image.alarms import BEATEN, COLLAPSE, COPIES, DECLINE, Alarms, CopyDetector, distinct, outlines, summary
from genkit.image.metrics import thumbnails

Pixels = NDArray[np.uint8]
GOOD = {"kd": 0.1, "swd": 1.0, "diversity": 0.9, "distinct": 0.8, "copies": 0.0}


def said(alarms: Alarms, step: int, *, best: float | None = 0.1, fraction: float = 0.5, **changes: float) -> list[str]:
    return alarms.measured(step, GOOD | changes, fraction=fraction, best=best)


def test_a_good_run_is_quiet() -> None:
    alarms = Alarms()
    for step in range(1, 500):
        assert alarms.watch(step, 1.3) == []
    for step, kd in enumerate((0.6, 0.4, 0.3, 0.25, 0.26), start=500):
        assert said(alarms, step, kd=kd, best=None if step == 500 else 0.25, copies=0.1) == []
    assert (alarms.active, alarms.history, alarms.broken, summary(alarms.history)) == ({}, [], None, [])
    assert set(alarms.numbers().values()) == {0.0}


def test_collapse_is_said_when_it_begins_and_when_it_is_over() -> None:
    alarms = Alarms()
    assert said(alarms, 100) == []
    (begins,) = said(alarms, 200, diversity=0.3)
    assert begins.startswith("warning: collapse: the generator's pictures differ")
    assert alarms.broken == begins.removeprefix("warning: ").removesuffix(" (step 200)")
    assert said(alarms, 300, diversity=0.3) == []
    assert said(alarms, 400, diversity=0.45) == []  # better, and not good
    (ends,) = said(alarms, 500, diversity=0.55)
    assert ends.startswith("over since step 500: collapse")
    assert alarms.history == [{"alarm": COLLAPSE, "began": 200, "ended": 500}]
    assert alarms.broken is None
    assert summary(alarms.history)[0].endswith("(step 200 to 500)")


def test_a_few_modes_that_differ_much_are_a_collapse() -> None:
    alarms = Alarms()
    said(alarms, 1)
    assert said(alarms, 2, diversity=0.95, distinct=0.05) != []
    assert alarms.active == {COLLAPSE: 2}


def test_a_young_generator_may_be_uniform_but_not_for_long() -> None:
    alarms = Alarms()
    assert said(alarms, 1, fraction=0.1, diversity=0.02) == []
    assert said(alarms, 2, fraction=0.3, diversity=0.02) != []
    assert alarms.broken is None  # nothing was better before, so there is nothing to go back to
    assert said(alarms, 3, fraction=0.4) != []
    assert said(alarms, 4, fraction=0.5, diversity=0.02) != []
    assert alarms.broken is not None


def test_the_discriminator_that_has_won() -> None:
    alarms = Alarms()
    (begins,) = alarms.watch(100, 0.01)
    assert "tells every fake from real" in begins
    assert alarms.watch(101, 0.01) == alarms.watch(102, 0.05) == []
    assert alarms.broken is not None
    assert alarms.watch(103, 0.2)[0].startswith("over since step 103")
    assert alarms.numbers()[f"alarm_{BEATEN}"] == 0.0


def test_decline_takes_two_measurements_in_a_row() -> None:
    alarms = Alarms()
    assert said(alarms, 1, kd=0.35) == []  # noise, perhaps
    assert said(alarms, 2, kd=0.2) == []
    assert said(alarms, 3, kd=0.35) == []
    assert said(alarms, 4, kd=0.4) == ["warning: the generator has become far worse than its best (step 4)"]
    assert alarms.active == {DECLINE: 4}
    assert said(alarms, 5, kd=0.15) == ["over since step 5: the generator has become far worse than its best"]


def test_decline_by_sliced_wasserstein_where_there_are_no_features() -> None:
    alarms = Alarms()
    found = {name: value for name, value in GOOD.items() if name != "kd"}
    assert alarms.measured(1, found | {"swd": 2.5}, fraction=0.5, best=1.0) == []
    assert alarms.measured(2, found | {"swd": 2.5}, fraction=0.5, best=1.0) != []


def test_a_kd_below_zero_is_no_reason() -> None:
    """Unbiased, it may be: twice nothing is still nothing."""
    alarms = Alarms()
    assert said(alarms, 1, kd=0.05, best=-0.001) == said(alarms, 2, kd=0.05, best=-0.001) == []


def test_copies() -> None:
    alarms = Alarms()
    assert said(alarms, 1, copies=0.25) == []
    assert said(alarms, 2, copies=0.35)[0].startswith("warning: memorisation")
    assert said(alarms, 3, copies=0.25) == []
    assert alarms.broken is None  # the model is no worse than it was
    assert said(alarms, 4, copies=0.1)[0].startswith("over since step 4: memorisation")
    assert [entry["alarm"] for entry in alarms.history] == [COPIES]


def test_pictures_that_are_all_alike_are_not_called_copies() -> None:
    alarms = Alarms()
    said(alarms, 1, diversity=0.04, copies=1.0)
    assert COPIES not in alarms.active


def test_going_back_ends_what_was_wrong_with_the_training() -> None:
    alarms = Alarms()
    said(alarms, 1, copies=0.9)
    alarms.watch(2, 0.0)
    said(alarms, 3, diversity=0.1, copies=0.9)
    alarms.went_back(3)
    assert alarms.active == {COPIES: 1}
    assert [entry["ended"] for entry in alarms.history if entry["alarm"] != COPIES] == [3, 3]


def test_the_state_comes_back() -> None:
    """Also what is not yet an alarm: one bad measurement, and having been diverse."""
    alarms = Alarms()
    said(alarms, 1)
    alarms.watch(2, 0.0)
    said(alarms, 3, kd=0.9)
    again = Alarms(alarms.to_dict())
    assert again.to_dict() == alarms.to_dict()
    assert again.active == {BEATEN: 2}
    assert said(again, 4, kd=0.9, fraction=0.0, diversity=0.1) == said(alarms, 4, kd=0.9, fraction=0.0, diversity=0.1)
    assert set(again.active) == {BEATEN, DECLINE, COLLAPSE}
    again.watch(5, 1.0)
    assert alarms.active[BEATEN] == 2  # nothing is shared


# --- copies ---------------------------------------------------------------------------


def scenes(n: int, seed: int, side: int = 64) -> Pixels:
    """Images of six soft coloured blobs each: no two alike, and none far from all others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    images = np.empty((n, side, side, 3), np.uint8)
    for image in images:
        canvas = np.full((side, side, 3), 0.5)
        for cx, cy, size, *colour in np.column_stack(
            [rng.random((6, 2)), rng.uniform(0.05, 0.2, 6), rng.random((6, 3))]
        ):
            cover = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)[..., None]
            canvas = canvas * (1 - cover) + np.array(colour) * cover
        image[:] = (canvas * 255).round()
    return images


def share(training: Pixels, images: NDArray[np.floating] | Pixels) -> float:
    detector = CopyDetector(outlines(thumbnails(training)))
    return detector.share(outlines(thumbnails(np.clip(images, 0, 255).round().astype(np.uint8))))


def blur(images: NDArray[np.floating]) -> NDArray[np.floating]:
    n, side, _, channels = images.shape
    small = images.reshape(n, side // 4, 4, side // 4, 4, channels).mean((2, 4))
    return small.repeat(4, 1).repeat(4, 2)


NOISE = np.random.default_rng(5).normal(0, 20, (200, 64, 64, 3))
SAME: dict[str, Callable[[NDArray[np.floating]], NDArray[np.floating]]] = {
    "copies": lambda x: x,
    "noise": lambda x: x + NOISE,
    "a shift": lambda x: np.roll(x, 1, axis=2),
    "brightness": lambda x: 0.8 * x + 30,
    "blur": blur,
    "blends with others": lambda x: 0.8 * x + 0.2 * x[::-1],
}


@pytest.mark.parametrize("n", [60, 300, 1000])
@pytest.mark.parametrize("name", SAME)
def test_near_copies_of_training_images_are_found(name: str, n: int) -> None:
    training = scenes(n, seed=1)
    chosen = training[np.random.default_rng(2).integers(0, n, 200)].astype(float)
    assert share(training, SAME[name](chosen)) > 0.8


@pytest.mark.parametrize("n", [60, 300, 1000])
def test_new_images_are_no_copies_sharp_or_not(n: int) -> None:
    training, new = scenes(n, seed=1), scenes(200, seed=2).astype(float)
    for images in (new, blur(new), new + NOISE, 0.5 * new + 64, np.roll(new, 7, axis=1)):
        assert share(training, images) < 0.15


def test_the_share_is_that_of_the_copies() -> None:
    training, new = scenes(300, seed=1), scenes(100, seed=2)
    half = np.concatenate([training[:100], new])
    assert share(training, half) == pytest.approx(0.5, abs=0.08)


def test_images_that_are_there_twice_hide_no_copies() -> None:
    training = np.repeat(scenes(150, seed=1), 2, axis=0)
    assert share(training, training[::2]) > 0.9
    assert share(training, scenes(200, seed=2)) < 0.2


def test_blank_images_raise_nothing() -> None:
    blank = np.full((20, 64, 64, 1), 7, np.uint8)
    assert share(blank, blank) == 0.0
    assert share(scenes(20, seed=1)[:, :, :, :1], blank) < 0.3


def test_outlines_forget_light_and_contrast() -> None:
    small = thumbnails(scenes(4, seed=1))
    np.testing.assert_allclose(outlines(small), outlines(0.5 * small + 0.2), atol=1e-5)
    rows = outlines(small)
    assert rows.shape == (4, 16 * 16 * 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


# --- distinctness ---------------------------------------------------------------------


def test_distinctness_of_the_data_itself_is_one_and_of_few_pictures_near_nothing() -> None:
    real = outlines(thumbnails(scenes(400, seed=1)))
    assert distinct(real[:200], real[200:]) == pytest.approx(1, abs=0.1)
    modes = real[np.random.default_rng(0).integers(0, 8, 200)]
    assert distinct(modes, real) == 0.0
    nearly = modes + np.random.default_rng(0).normal(0, 0.002, modes.shape).astype(np.float32)
    assert distinct(nearly, real) < 0.15
    assert distinct(real[200:], real[:200].repeat(2, 0)) == pytest.approx(1, abs=0.15)  # the data holds each twice
    assert distinct(real[:1].repeat(2, 0), np.zeros((2, real.shape[1]), np.float32)) == 1.0  # the data is one image

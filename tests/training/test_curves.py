import json
import math
from pathlib import Path

import numpy as np
import pytest

from genkit.errors import InputError
from genkit.training.curves import curves_of, read_metrics, smooth, tick_label, ticks


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_read_whatever_a_kill_left(tmp_path: Path) -> None:
    path = write(tmp_path / "m", [{"step": 10, "loss": 2.0}, {"step": 20, "loss": None}])
    with path.open("a") as file:
        file.write('3\n{"step": 30, "lo')
    assert read_metrics(path) == [{"step": 10, "loss": 2.0}, {"step": 20, "loss": None}]
    with pytest.raises(InputError):
        read_metrics(tmp_path / "none")


def test_a_million_steps_are_thinned_out_but_the_few_evaluations_are_not(tmp_path: Path) -> None:
    rows = []
    for step in range(10, 1_000_001, 10):
        rows.append({"step": step, "loss": 1.0, "tokens": 2 * step})
        if step % 50_000 == 0:
            rows.append({"step": step, "val_loss": 1.0})
    kept = read_metrics(write(tmp_path / "m", rows))
    assert 2000 < sum("loss" in row for row in kept) <= 4000
    assert [row["step"] for row in kept if "val_loss" in row] == list(range(50_000, 1_000_001, 50_000))
    assert kept[-1]["step"] == kept[-2]["step"] == 1_000_000
    steps = [row["step"] for row in kept if "loss" in row]
    assert len(set(np.diff(steps))) == 1


def test_a_text_run() -> None:
    rows = [{"step": 10, "loss": 3.0, "lr_scale": 0.5, "tokens": 640}, {"step": 15, "val_loss": 2.5, "val_bpb": 9.0},
            {"step": 20, "loss": 2.0, "lr_scale": 1.0, "tokens": 1280}, {"step": 21, "val_loss": 2.25}]  # fmt: skip
    curves = curves_of(rows)
    assert curves is not None
    assert (curves.unit, curves.steps, curves.end) == ("tokens", 21, 21 * 64)
    training, validation = curves.losses
    assert (training.label, training.x.tolist(), training.y.tolist()) == ("training loss", [640, 1280], [3.0, 2.0])
    assert (validation.dotted, validation.x.tolist(), validation.y.tolist()) == (True, [960, 1344], [2.5, 2.25])
    assert curves.rate is not None
    assert curves.rate.line.tolist() == [0.5, 1.0]


def test_an_image_run_and_one_that_counts_nothing() -> None:
    curves = curves_of([{"step": 10, "d_loss": 1.0, "g_loss": 2.0, "penalty": 9.0, "images": 80}])
    assert curves is not None
    assert [curve.name for curve in curves.losses] == ["d_loss", "g_loss"]
    assert (curves.unit, curves.end, curves.rate) == ("images", 80, None)
    curves = curves_of([{"step": 0, "val_loss": 2.0}])
    assert curves is not None
    assert (curves.unit, curves.end) == ("steps", 1)


def gan_run(n: int, every: int, distance: str = "kd") -> list[dict]:
    """Losses of `n` steps, and each `every` steps a distance that falls and a diversity that rises."""
    rows: list[dict] = []
    for step in range(1, n + 1):
        rows.append({"step": step, "d_loss": 1.0, "g_loss": 2.0, "images": 8 * step})
        if step % every == 0:
            rows.append({"step": step, "swd": 9.0, distance: 1 - step / (2 * n), "diversity": step / n, "copies": 0.0})
    return rows


def test_what_was_measured_has_scales_of_its_own() -> None:
    curves = curves_of(gan_run(100, 25))
    assert curves is not None
    distance, diversity = curves.measures
    assert (distance.label, distance.dotted, distance.falls) == ("kernel distance", True, True)
    assert distance.x.tolist() == diversity.x.tolist() == [200, 400, 600, 800]
    assert distance.y.tolist() == [0.875, 0.75, 0.625, 0.5]
    assert (diversity.label, diversity.falls) == ("share of the data's diversity", False)
    assert diversity.line.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curves.limits((diversity,)) == pytest.approx((0.25 - 0.0371, 0.99625 + 0.0371), abs=1e-3)
    assert [curve.name for curve in curves.losses] == ["d_loss", "g_loss"]
    without = curves_of(gan_run(100, 25, "swd"))
    assert without is not None
    assert [curve.name for curve in without.measures] == ["swd", "diversity"]
    none = curves_of(gan_run(100, 1000))
    assert none is not None
    assert none.measures == ()


def test_the_few_measurements_of_a_long_run_are_kept(tmp_path: Path) -> None:
    kept = read_metrics(write(tmp_path / "m", gan_run(12_000, 600)))
    assert sum("kd" in row for row in kept) == 20
    assert sum("d_loss" in row for row in kept) <= 4000


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": math.nan}], [{"step": 1, "lr_scale": 1.0}], [{"loss": 1.0}]])
def test_nothing_to_draw(rows: list[dict]) -> None:
    assert curves_of(rows) is None


def test_what_is_not_finite_is_left_out() -> None:
    rows = [{"step": s, "loss": y} for s, y in enumerate([4.0, math.nan, None, math.inf, 3.0, -math.inf])]
    curves = curves_of(rows)
    assert curves is not None
    assert (curves.losses[0].x.tolist(), curves.losses[0].y.tolist()) == ([0, 4], [4.0, 3.0])


def test_steps_that_a_run_took_back_are_gone() -> None:
    steps = [10, 20, 30, 40, 30, 40, 50]  # back to the checkpoint at 25
    rows = [{"step": step, "loss": float(i)} for i, step in enumerate(steps)]
    curves = curves_of(rows)
    assert curves is not None
    assert curves.losses[0].x.tolist() == [10, 20, 30, 40, 50]
    assert curves.losses[0].y.tolist() == [0, 1, 4, 5, 6]


@pytest.mark.parametrize("n", [1, 2, 49, 50, 1000])
def test_smoothing_leaves_straight_lines_alone(n: int) -> None:
    line = 5 - 0.25 * np.arange(n)
    np.testing.assert_allclose(smooth(line), line, atol=1e-9)


def test_smoothing_takes_noise_away_and_keeps_the_start() -> None:
    n = 2000
    truth = 2 + 3 * np.exp(-np.arange(n) / 200)
    noisy = truth + np.random.default_rng(0).normal(0, 0.2, n)
    error = smooth(noisy) - truth
    assert error[50:].std() < 0.2 / 5
    assert abs(error[-1]) < 0.1
    assert smooth(noisy)[0] == pytest.approx(noisy[0])


def test_the_steep_start_and_outliers_do_not_squeeze_the_rest() -> None:
    rows = [{"step": s, "loss": 10.0 if s < 3 else 2 - s / 1000} for s in range(1, 1001)]
    rows[500]["loss"] = 1000.0
    curves = curves_of(rows)
    assert curves is not None
    low, high = curves.limits(curves.losses)
    assert low < 1.0 < 2.0 < high < 100
    flat = curves_of([{"step": s, "loss": 2.0} for s in range(3)])
    assert flat is not None
    assert flat.limits(flat.losses) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (1.42, 3.1, 4, [1.5, 2, 2.5, 3]),
        (0, 4.3e6, 9, [500_000 * i for i in range(9)]),
        (-0.04, 1.08, 2, [0, 1]),
        (0, 1, 9, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.0012, 0.0013, 3, [0.0012, 0.00125, 0.0013]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1.5, "1.5"), (0.00125, "0.00125"), (200_000, "200k"), (1.2e6, "1.2M"), (5e9, "5G")]
)
def test_labels_of_ticks(value: float, text: str) -> None:
    assert tick_label(value) == text

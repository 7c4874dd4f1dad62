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
    low, high = curves.limits()
    assert low < 1.0 < 2.0 < high < 100
    flat = curves_of([{"step": s, "loss": 2.0} for s in range(3)])
    assert flat is not None
    assert flat.limits() == (1.0, 3.0)


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

import io
import math

import numpy as np
import pytest
from PIL import Image

from genkit.training.chart import HEIGHT, WIDTH, draw
from genkit.training.curves import curves_of

BLUE, ORANGE, GREY = (31, 111, 181), (217, 87, 28), (107, 107, 107)


def drawn(rows: list[dict], title: str = "run") -> np.ndarray:
    curves = curves_of(rows)
    assert curves is not None
    image = Image.open(io.BytesIO(draw(curves, title)))
    assert (image.format, image.size) == ("PNG", (WIDTH, HEIGHT))
    return np.asarray(image.convert("RGB")).astype(int)


def where(pixels: np.ndarray, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a colour inside the plot, which begins below the legend."""
    rows, columns = np.nonzero(np.abs(pixels - color).max(axis=2) < 24)
    below = (rows > 76) & (columns > 66)
    return rows[below], columns[below]


def text_run(n: int, **more: float) -> list[dict]:
    rows = [{"step": s, "loss": 1 + math.exp(-s / n * 4), "tokens": 100 * s, "lr_scale": 1 - s / n, **more}
            for s in range(1, n + 1)]  # fmt: skip
    measured = [{"step": s, "val_loss": 1.2 + math.exp(-s / n * 4)} for s in (n // 2, n)]
    return sorted(rows + measured, key=lambda row: row["step"])


def test_curves_lie_where_their_numbers_are() -> None:
    pixels = drawn(text_run(1000))
    rows, columns = where(pixels, BLUE)
    left, right = rows[columns < 100], rows[columns > 850]
    assert left.mean() < right.mean() - 150  # the loss falls
    assert columns.max() >= WIDTH - 26  # to the end
    above, _ = where(pixels, ORANGE)
    assert above.min() < right.mean()  # validation lies above training
    rate, columns = where(pixels, GREY)
    inside = (rate > 412) & (rate < 471) & (columns > 70)
    assert rate[inside & (columns < 120)].mean() < rate[inside & (columns > 800)].mean()


def test_what_was_measured_stands_below_the_losses() -> None:
    rows = [{"step": s, "d_loss": 5.0, "g_loss": 7.0, "images": s} for s in range(1, 101)]
    measured = [{"step": s, "kd": 1 - s / 200, "diversity": s / 100} for s in range(10, 101, 10)]
    plain, taller = curves_of(rows), curves_of(sorted(rows + measured, key=lambda row: row["step"]))
    assert plain is not None
    assert taller is not None
    sizes = [Image.open(io.BytesIO(draw(curves, "run"))).size for curves in (plain, taller)]
    assert sizes[0] == (WIDTH, HEIGHT)
    assert sizes[1] == (WIDTH, HEIGHT + 260)
    pixels = np.asarray(Image.open(io.BytesIO(draw(taller, "run"))).convert("RGB")).astype(int)
    down, across = where(pixels, BLUE)
    bottom = HEIGHT - 48  # of the losses
    for low, falls in ((bottom + 34, True), (bottom + 164, False)):
        inside = (down > low) & (down < low + 96)
        first, last = down[inside & (across < 200)].mean(), down[inside & (across > 800)].mean()
        assert (last - first if falls else first - last) > 40


def test_without_validation_and_learning_rate() -> None:
    pixels = drawn([{"step": s, "loss": 2.0 + s, "tokens": s} for s in range(5)])
    assert len(where(pixels, BLUE)[0])
    assert not len(where(pixels, ORANGE)[0])


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 7, "loss": 2.5}],
        [{"step": 0, "val_loss": 2.5}],
        [{"step": 1, "loss": 1e-30}, {"step": 2, "loss": 1e30}],
        [{"step": 1, "loss": -3.0}, {"step": 2, "loss": -3.0}],
        [{"step": 1, "d_loss": 1.0, "g_loss": 2.0, "images": 10}, {"step": 2, "g_loss": 3.0, "images": 20}],
        [{"step": 10**9, "loss": 1.0, "tokens": 10**13}, {"step": 2 * 10**9, "loss": 1.1, "tokens": 2 * 10**13}],
    ],
)
def test_any_run_can_be_drawn(rows: list[dict]) -> None:
    pixels = drawn(rows, "a name with ümlauts, 漢字 and \x07")
    assert (pixels[0, 0] == 255).all()
    assert len(where(pixels, BLUE)[0]) + len(where(pixels, ORANGE)[0])


def test_the_same_rows_give_the_same_bytes() -> None:
    curves = curves_of(text_run(50))
    assert curves is not None
    assert draw(curves, "a") == draw(curves, "a") != draw(curves, "b")

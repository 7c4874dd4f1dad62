"""The film of a training is made of its sample sheets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.image.canvas import encode
from genkit.image.reel import FRAMES, SIDE, film_of, is_due


def put(folder: Path, step: int, shade: int, side: int = 40, channels: int = 3) -> Path:
    path = folder / f"step-{step:06d}.png"
    path.write_bytes(encode(np.full((side, side, channels), shade, np.uint8), "png"))
    return path


def frames(film: bytes | None) -> list[tuple[int, int]]:
    """Shade and milliseconds of each frame."""
    assert film is not None
    with Image.open(io.BytesIO(film)) as image:
        found = []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            found.append((int(np.asarray(image.convert("L")).mean().round()), image.info["duration"]))
        return found


def test_sheets_follow_one_another_by_step_and_the_last_one_stays(tmp_path: Path) -> None:
    for step, shade in ((1_000_000, 200), (20, 50), (9, 20)):
        put(tmp_path, step, shade)
    for other in ("step-5.txt", "step-x.png", "film.webp", "grid.png"):
        (tmp_path / other).write_text("no sheet")
    shades, shown = zip(*frames(film_of(tmp_path)), strict=True)
    assert shades == pytest.approx([20, 50, 200], abs=2)
    assert shown == (400, 400, 2000)


def test_films_on_the_way_are_as_many_as_the_sheets_double(tmp_path: Path) -> None:
    assert not is_due(tmp_path)
    due = []
    for step in range(1, 18):
        put(tmp_path, step, 0, side=4)
        due += [step] if is_due(tmp_path) else []
    assert due == [1, 2, 4, 8, 16]


def test_no_sheets_no_film(tmp_path: Path) -> None:
    assert film_of(tmp_path) is None
    assert film_of(tmp_path / "missing") is None


def test_a_single_sheet(tmp_path: Path) -> None:
    put(tmp_path, 1, 90)
    film = film_of(tmp_path)
    assert film is not None
    with Image.open(io.BytesIO(film)) as image:
        assert (image.format, image.size) == ("WEBP", (40, 40))


def test_a_long_run_is_thinned_out_from_first_to_last(tmp_path: Path) -> None:
    n = 2 * FRAMES + 51
    for step in range(n):
        put(tmp_path, step, step * 101 % 256, side=16)
    shades, shown = zip(*frames(film_of(tmp_path)), strict=True)
    assert len(shades) == FRAMES
    steps = [round(i * (n - 1) / (FRAMES - 1)) for i in range(FRAMES)]
    assert shades == pytest.approx([step * 101 % 256 for step in steps], abs=2)
    assert (steps[-1], set(shown)) == (n - 1, {80, 2000})


def test_a_damaged_sheet_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, 1, 10)
    torn = put(tmp_path, 2, 100)
    torn.write_bytes(torn.read_bytes()[:-20])
    put(tmp_path, 3, 200)
    (tmp_path / "step-000004.png").write_bytes(b"GIF89a")
    assert [shade for shade, _ in frames(film_of(tmp_path))] == pytest.approx([10, 200], abs=2)


def test_large_sheets_are_reduced_and_other_sizes_fitted(tmp_path: Path) -> None:
    put(tmp_path, 1, 60, side=3 * SIDE)
    put(tmp_path, 2, 120, side=SIDE // 2)
    film = film_of(tmp_path)
    assert [shade for shade, _ in frames(film)] == pytest.approx([60, 120], abs=2)
    assert film is not None
    with Image.open(io.BytesIO(film)) as image:
        assert image.size == (SIDE, SIDE)


@pytest.mark.parametrize(("channels", "shade"), [(1, 77), (3, 77), (4, 201)])
def test_grey_and_transparent_sheets(tmp_path: Path, channels: int, shade: int) -> None:
    put(tmp_path, 1, 77, channels=channels)  # at an opacity of 77 / 255, on white: 201
    put(tmp_path, 2, 0, channels=channels)
    assert frames(film_of(tmp_path))[0][0] == pytest.approx(shade, abs=2)


def test_the_same_sheets_give_the_same_film(tmp_path: Path) -> None:
    for step in range(3):
        put(tmp_path, step, 40 * step)
    assert film_of(tmp_path) == film_of(tmp_path)

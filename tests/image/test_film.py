"""Animations: every frame, in time, with its note."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from genkit.errors import UsageError
from genkit.image.canvas import read_note
from genkit.image.film import check_film, write_film

NOTE = {"interpolate": "0,5", "model": "Kätzchen 猫", "long": "x" * 700}
FORMS = ("gif", "webp", "mp4")


def frames(n: int, channels: int = 3, side: int = 32) -> list[NDArray[np.uint8]]:
    """Smooth pictures that move a little from one to the next."""
    y, x = np.mgrid[:side, :side] * 6.0
    waves = [np.stack([x + 9 * i, y + 5 * i, (x + y) / 2][:channels], -1) for i in range(n)]
    return [(127.5 + 127.5 * np.sin(wave / 40)).astype(np.uint8) for wave in waves]


def film(form: str, pictures: list[NDArray[np.uint8]], *, fps: int = 20, loop: bool = True, note: bool = True) -> bytes:
    file = io.BytesIO()
    write_film(file, iter(pictures), form, count=len(pictures), fps=fps, loop=loop, note=NOTE if note else None)
    return file.getvalue()


def decoded(data: bytes, form: str) -> list[NDArray[np.uint8]]:
    if form == "mp4":
        import av

        with av.open(io.BytesIO(data)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == form.upper()
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Root mean square, in levels."""
    return float(np.sqrt(((a.astype(float) - b) ** 2).mean()))


@pytest.mark.parametrize(("form", "tolerance"), [("gif", 6.5), ("webp", 0), ("mp4", 6.5)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_every_frame_is_there(form: str, tolerance: float, channels: int, n: int) -> None:
    pictures = frames(n, channels)
    shown = decoded(film(form, pictures), form)
    assert len(shown) == n
    limit = 0 if form == "gif" and channels == 1 else tolerance
    assert max(error(a, b) for a, b in zip(shown, pictures, strict=True)) <= limit
    if n > 1:
        assert error(shown[0], pictures[1]) > 7


def test_frames_that_do_not_move_are_kept() -> None:
    still = frames(1) * 5
    for form in ("gif", "mp4"):
        assert len(decoded(film(form, still), form)) == 5


@pytest.mark.parametrize(
    ("fps", "hundredths"), [(20, [5] * 6), (50, [2] * 6), (30, [3, 4, 3, 3, 4, 3]), (1, [100] * 6)]
)
def test_a_gif_keeps_time(fps: int, hundredths: list[int]) -> None:
    with Image.open(io.BytesIO(film("gif", frames(6), fps=fps))) as image:
        shown = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert shown == [10 * h for h in hundredths]


@pytest.mark.parametrize("fps", [1, 30, 60])
def test_webp_and_mp4_keep_time(fps: int) -> None:
    import av

    with Image.open(io.BytesIO(film("webp", frames(7), fps=fps))) as image:
        image.seek(6)
        image.load()
        assert image.info["timestamp"] + image.info["duration"] == pytest.approx(7000 / fps, abs=1)
    with av.open(io.BytesIO(film("mp4", frames(7), fps=fps))) as container:
        assert container.streams.video[0].average_rate == fps


@pytest.mark.parametrize("loop", [True, False])
def test_whether_it_plays_for_ever(loop: bool) -> None:
    with Image.open(io.BytesIO(film("gif", frames(2), loop=loop))) as image:
        assert image.info.get("loop") == (0 if loop else None)
        assert image.info["version"] == b"GIF89a"
    with Image.open(io.BytesIO(film("webp", frames(2), loop=loop))) as image:
        assert image.info["loop"] == (0 if loop else 1)


@pytest.mark.parametrize("form", FORMS)
def test_notes_come_back(form: str) -> None:
    assert read_note(io.BytesIO(film(form, frames(3)))) == NOTE
    assert read_note(io.BytesIO(film(form, frames(3), note=False))) == {}


@pytest.mark.parametrize("form", FORMS)
def test_films_are_deterministic(form: str) -> None:
    expected = film(form, frames(5))
    for other in (*FORMS, *FORMS):  # and leave something else behind in the memory
        film(other, frames(9, 1))
        assert film(form, frames(5)) == expected


def test_a_gif_is_written_as_it_is_drawn() -> None:
    file, seen = io.BytesIO(), []

    def drawn() -> Iterator[NDArray[np.uint8]]:
        for picture in frames(4):
            seen.append(file.tell())
            yield picture

    write_film(file, drawn(), "gif", count=4, fps=20)
    assert seen == sorted(set(seen))  # each frame is out before the next is asked for


@pytest.mark.parametrize("form", ["webp", "mp4"])
def test_frames_are_drawn_one_at_a_time(form: str) -> None:
    """What is drawn into one array again and again still gives all the frames."""
    canvas = np.empty((32, 32, 3), np.uint8)

    def drawn() -> Iterator[NDArray[np.uint8]]:
        for picture in frames(5):
            canvas[:] = picture
            yield canvas

    file = io.BytesIO()
    write_film(file, drawn(), form, count=5, fps=20, note=NOTE)
    assert file.getvalue() == film(form, frames(5))


def test_what_cannot_be_written_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_film("gif", 50)
    with pytest.raises(UsageError, match="a gif shows at most 50 frames a second"):
        check_film("gif", 51)
    monkeypatch.setitem(sys.modules, "av", None)
    check_film("webp", 60)
    with pytest.raises(UsageError, match=r"mp4 needs the package av \(pip install 'genkit-cli\[video\]'"):
        check_film("mp4", 20)


@pytest.mark.parametrize("form", ["gif", "mp4"])
def test_without_transparency_frames_lie_on_white(form: str) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    opaque = np.concatenate([frames(1)[0], np.full((32, 32, 1), 255, np.uint8)], axis=2)
    first, second = decoded(film(form, [clear, opaque]), form)
    assert first.min() > 250
    assert error(second, opaque[:, :, :3]) < 8


def test_a_webp_keeps_transparency() -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (8, 8, 4), np.uint8) for i in range(2)]
    with Image.open(io.BytesIO(film("webp", pictures))) as image:
        shown = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    for a, b in zip(shown, pictures, strict=True):
        assert np.array_equal(a[:, :, 3], b[:, :, 3])
        assert np.array_equal(a[b[:, :, 3] > 0], b[b[:, :, 3] > 0])

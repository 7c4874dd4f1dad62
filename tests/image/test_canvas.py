"""Sheets, encodings and notes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from genkit.errors import InputError, UsageError
from genkit.image.canvas import Sheet, encode, encode_npz, grid, read_note

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
NOTE = {"seed": "7", "model": "kittens", "author": "Ünïcode 猫"}


def test_grid_places_pictures_row_by_row() -> None:
    pictures = [np.full((2, 3, 1), i, np.uint8) for i in range(5)]
    sheet = grid(pictures, gap=1)
    assert sheet.shape == (1 + 2 * 3, 1 + 3 * 4, 1)  # 2 rows of 3
    w = 255
    assert sheet[:, :, 0].tolist() == [
        [w] * 13,
        [w, 0, 0, 0, w, 1, 1, 1, w, 2, 2, 2, w],
        [w, 0, 0, 0, w, 1, 1, 1, w, 2, 2, 2, w],
        [w] * 13,
        [w, 3, 3, 3, w, 4, 4, 4, w, w, w, w, w],
        [w, 3, 3, 3, w, 4, 4, 4, w, w, w, w, w],
        [w] * 13,
    ]


@pytest.mark.parametrize(("n", "columns", "shape"), [(16, None, (32, 24)), (16, 8, (16, 48)), (1, None, (8, 6))])
def test_grid_shape(n: int, columns: int | None, shape: tuple[int, int]) -> None:
    assert grid([PICTURE] * n, columns, gap=0).shape == (*shape, 3)


def test_a_sheet_takes_pictures_as_they_come() -> None:
    sheet = Sheet(5, PICTURE.shape)
    assert sheet.shape == (2 + 2 * 10, 2 + 3 * 8, 3)  # known before there is a picture
    assert np.array_equal(sheet.fill(PICTURE for _ in range(5)), grid([PICTURE] * 5))


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless(format: str, channels: int) -> None:
    pixels = PICTURE[:, :, :channels]
    with Image.open(io.BytesIO(encode(pixels, format, NOTE))) as image:
        assert image.format == format.upper()
        read = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(pixels.shape)
    assert np.array_equal(read, pixels)


def test_jpg() -> None:
    smooth = np.full((16, 16, 3), (10, 120, 240), np.uint8)
    with Image.open(io.BytesIO(encode(smooth, "jpg"))) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image).astype(int) - smooth).max() <= 2


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_notes_come_back(format: str) -> None:
    assert read_note(io.BytesIO(encode(PICTURE, format, NOTE))) == NOTE
    assert read_note(io.BytesIO(encode(PICTURE, format))) == {}


LATENTS = np.arange(3, dtype=np.float32)[None]


def test_encoding_is_deterministic() -> None:
    assert encode(PICTURE, "png", NOTE) == encode(PICTURE, "png", NOTE)
    assert encode_npz(PICTURE[None], [7], LATENTS, NOTE) == encode_npz(PICTURE[None], [7], LATENTS, NOTE)


def test_npz_opens_without_pickle() -> None:
    data = encode_npz(PICTURE[None], [2**63 + 1], LATENTS, NOTE)
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        assert np.array_equal(found["images"], PICTURE[None])
        assert found["seeds"].tolist() == [2**63 + 1]
        assert np.array_equal(found["latents"], LATENTS)
        assert found["latents"].dtype == np.float32
    assert read_note(io.BytesIO(data)) == NOTE


def test_sheets_that_a_format_cannot_hold() -> None:
    with pytest.raises(UsageError, match="webp holds at most 16383"):
        encode(np.zeros((1, 16384, 1), np.uint8), "webp")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a png"),
        (b"nothing", "not a png"),
        (b"\x89PNG\r\n\x1a\nnothing", "not a png"),
        (b"GIF89a", "not a png"),
        (b"PK\x03\x04nothing", "not an npz"),
        (b"\0\0\0\x20ftypisomnothing", "not an mp4"),
    ],
)
def test_notes_of_other_files(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_note(io.BytesIO(content))


def test_notes_that_are_none() -> None:
    file = io.BytesIO()
    np.savez(file, images=PICTURE)
    assert read_note(file) == {}
    file = io.BytesIO()
    Image.new("P", (2, 2)).save(file, "GIF", comment=b"made by hand")
    assert read_note(file) == {}
    file = io.BytesIO()
    np.savez(file, note=np.array([object()], dtype=object))  # a pickle
    with pytest.raises(InputError, match="not an npz"):
        read_note(file)


def test_the_note_of_a_picture_that_pillow_takes_for_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # PICTURE has 48
    with pytest.raises(InputError, match="too large a picture"):
        read_note(io.BytesIO(encode(PICTURE, "png", NOTE)))

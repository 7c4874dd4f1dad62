"""Sheets, encodings and notes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from genkit.errors import InputError, UsageError
from genkit.image.canvas import Sheet, encode, encode_npz, grid, on_white, read_note

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


def places(groups: str, columns: int | None = None) -> list[str]:
    """The rows of a sheet of single pixels, a letter for each group."""
    sheet = Sheet(len(groups), (1, 1, 1), columns, gap=0, groups=groups)
    pixels = sheet.fill(np.full((1, 1, 1), ord(letter), np.uint8) for letter in groups)
    return ["".join("." if level == 255 else chr(level) for level in row) for row in pixels[:, :, 0]]


@pytest.mark.parametrize(
    ("groups", "columns", "rows"),
    [
        ("aaaabbbb", None, ["aaaa", "bbbb"]),
        ("aaaaabb", None, ["aaaaa", "bb..."]),
        ("aabbccddeeff", None, ["aabb", "ccdd", "eeff"]),  # two groups in a row make it squarer
        ("abcdefg", None, ["abc", "def", "g.."]),
        ("aabccc", None, ["aa.", "b..", "ccc"]),
        ("aaaaaaa", None, ["aaa", "aaa", "a.."]),  # one group is none
        ("aaabbb", 2, ["aa", "a.", "bb", "b."]),
        ("aaabbb", 9, ["aaabbb"]),
        ("aabaa", 2, ["aa", "b.", "aa"]),
        ("a" * 17 + "b", None, ["aaaaa", "aaaaa", "aaaaa", "aa...", "b...."]),  # too many for one row
    ],
)
def test_groups_keep_together(groups: str, columns: int | None, rows: list[str]) -> None:
    assert places(groups, columns) == rows


def test_sheets_of_transparent_pictures_are_transparent_between_them() -> None:
    picture = np.full((2, 2, 4), 9, np.uint8)
    sheet = grid([picture] * 3, gap=1)
    assert np.array_equal(sheet[1:3, 1:3], picture)
    assert not sheet[4:, 4:, 3].any()
    assert sheet[0, 0].tolist() == [255, 255, 255, 0]


def test_transparency_is_laid_on_white() -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 128]]], np.uint8)
    assert on_white(pixels).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 177, 227]]]
    assert on_white(PICTURE) is PICTURE


def test_only_jpg_has_no_transparency() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 6, 4), np.uint8)
    pixels[:4, :, 3] = 0
    for format in ("png", "webp"):
        with Image.open(io.BytesIO(encode(pixels, format, NOTE))) as image:
            assert np.array_equal(np.asarray(image), pixels)  # also the colours that nobody sees
    with Image.open(io.BytesIO(encode(pixels, "jpg", NOTE))) as image:
        assert image.mode == "RGB"
        assert np.asarray(image)[:3].mean() > 240


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


def test_npz_holds_labels_where_there_are_some() -> None:
    with np.load(io.BytesIO(encode_npz(PICTURE[None], None, LATENTS, NOTE, [3])), allow_pickle=False) as found:
        assert (found["labels"].tolist(), found["labels"].dtype) == ([3], np.int64)
        assert "seeds" not in found
    with np.load(io.BytesIO(encode_npz(PICTURE[None], [1], LATENTS)), allow_pickle=False) as found:
        assert "labels" not in found


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


@pytest.mark.parametrize(("form", "read"), [("png", "a\\udcff"), ("webp", "a\udcff")])
def test_a_note_of_a_name_that_is_no_text(form: str, read: str) -> None:
    """Files may be named by any bytes."""
    assert read_note(io.BytesIO(encode(PICTURE, form, {"model": "a\udcff"}))) == {"model": read}


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

"""Every kind of image file becomes the pixels that a viewer shows."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from genkit.image.decode import BAND, MAX_PIXELS, decode, picture, scale_to_8_bit, to_8_bit

# four flat quadrants, unlike under any rotation or reflection
QUADRANTS = np.zeros((16, 16, 3), np.uint8)
QUADRANTS[:8, :8], QUADRANTS[:8, 8:] = (255, 0, 0), (0, 255, 0)
QUADRANTS[8:, :8], QUADRANTS[8:, 8:] = (0, 0, 255), (255, 255, 0)


def encoded(image: Image.Image, format: str = "PNG", **how: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **how)  # type: ignore[arg-type]
    file.seek(0)
    return file


def read(file: io.BytesIO, size: int = 16, channels: int = 3, fit: str = "crop") -> NDArray[np.uint8]:
    return decode(file, size, channels, fit)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG"])
def test_formats(format: str) -> None:
    how = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    pixels = read(encoded(Image.fromarray(QUADRANTS), format, **how))
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    # JPEG rounds colours
    assert np.abs(pixels.astype(int) - QUADRANTS).max() <= (4 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation: int, format: str) -> None:
    """D08: stored as the camera held it, shown upright."""
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # upright -> stored
    upright = Image.fromarray(QUADRANTS)
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    pixels = read(encoded(stored, format, exif=exif, **how))
    assert np.abs(pixels.astype(int) - QUADRANTS).max() <= 4


def test_16_bit_grey_is_scaled() -> None:
    """D09: clipping at 255 would turn all but the darkest 1/256 white."""
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = read(encoded(Image.fromarray(levels)))
    assert np.abs(pixels[:, :, 0].ravel().astype(int) - np.arange(256)).max() <= 1
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_16_bit_rgb_png() -> None:
    """Written by hand, because Pillow reads such files but does not write them."""
    rows = b"".join(b"\0" + struct.pack(">48H", *[x * 4096, 0x8000, 0xFFFF] * 1, *[0] * 45) for x in range(16))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels = read(io.BytesIO(png))
    assert pixels[:, 0, 0].tolist() == [x * 16 for x in range(16)]
    assert pixels[0, 0].tolist() == [0, 128, 255]


def test_float_tiff_in_unit_range() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert read(encoded(Image.fromarray(values), "TIFF"))[:, :, 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("values", [np.float32([[0, 2]]), np.float32([[np.nan, 0]]), np.int32([[-1, 5]])])
def test_grey_values_without_an_agreed_range_are_refused(values: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="not within"):
        scale_to_8_bit(values)


def test_cmyk_jpeg() -> None:
    """D10."""
    cmyk = Image.fromarray(QUADRANTS).convert("CMYK")
    pixels = read(encoded(cmyk, "JPEG", quality=100, subsampling=0))
    assert np.abs(pixels.astype(int) - QUADRANTS).max() <= 6


def test_alpha_lies_on_white() -> None:
    rgba = np.dstack([QUADRANTS, np.full((16, 16), 255, np.uint8)])
    rgba[:8, :8, 3] = 0  # transparent, whatever colour hides there
    rgba[:8, 8:, 3] = 128
    pixels = read(encoded(Image.fromarray(rgba)))
    assert pixels[2, 2].tolist() == [255, 255, 255]
    assert np.abs(pixels[2, 12].astype(int) - [127, 255, 127]).max() <= 1
    assert pixels[12, 2].tolist() == [0, 0, 255]


def test_palette_and_palette_with_alpha() -> None:
    """D11."""
    paletted = Image.fromarray(QUADRANTS).quantize(4)
    assert np.array_equal(read(encoded(paletted)), QUADRANTS)
    red = paletted.getpixel((0, 0))
    assert isinstance(red, int)
    pixels = read(encoded(paletted, transparency=red))
    assert pixels[2, 2].tolist() == [255, 255, 255]
    assert pixels[12, 2].tolist() == [0, 0, 255]


def test_grey_with_alpha_and_one_bit() -> None:
    la = np.full((16, 16, 2), 255, np.uint8)
    la[:, :, 0], la[:8, :, 1] = 100, 0
    pixels = read(encoded(Image.fromarray(la)))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[15, 0].tolist() == [100] * 3
    one = Image.fromarray(QUADRANTS[:, :, 0] > 0)
    assert np.array_equal(read(encoded(one))[:, :, 0], QUADRANTS[:, :, 0])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(format: str) -> None:
    """D12."""
    first, second = Image.fromarray(QUADRANTS), Image.new("RGB", (16, 16), "black")
    how = {"lossless": True} if format == "WEBP" else {}
    pixels = read(encoded(first, format, save_all=True, append_images=[second], **how))
    assert np.array_equal(pixels, QUADRANTS)


def test_fit() -> None:
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :8], wide[:, 8:24], wide[:, 24:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert (read(encoded(Image.fromarray(wide)), 16, fit="crop") == (0, 255, 0)).all()
    pad, stretch = (read(encoded(Image.fromarray(wide)), 32, fit=fit) for fit in ("pad", "stretch"))
    assert (pad[:8] == 255).all()
    assert (pad[24:] == 255).all()
    assert np.array_equal(pad[8:24], wide)
    assert stretch[5, 0].tolist() == [255, 0, 0]
    assert stretch[30, 31].tolist() == [0, 0, 255]


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_thin_images(shape: tuple[int, int], fit: str) -> None:
    """D13."""
    pixels = read(encoded(Image.new("RGB", shape, (9, 80, 200))), 32, fit=fit)
    assert pixels.shape == (32, 32, 3)
    assert (pixels == (9, 80, 200)).all(-1).any()


def test_shrinking_averages() -> None:
    """A checkerboard finer than a pixel is grey; picking every n-th pixel would show black or white."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    for file in (encoded(Image.fromarray(board)), encoded(Image.fromarray(board), "JPEG", quality=95)):
        assert np.abs(read(file, 32).astype(int) - 127).max() <= 3


def test_large_jpegs_are_decoded_at_a_fraction() -> None:
    ramp = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (1024, 1))
    pixels = read(encoded(Image.fromarray(ramp), "JPEG", quality=95), 32, channels=1)
    assert np.abs(pixels[:, :, 0].astype(int) - np.linspace(3.5, 251.5, 32).round()).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_bands_and_fractions_change_nothing_that_shows(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth picture of odd sides, upright and turned, against one plain resize of the whole."""
    red, green = np.meshgrid(np.linspace(0, 1, 457), np.linspace(0, 1, 391))
    levels = np.rint(np.stack([red, green, red * green], -1) * 255).astype(np.uint8)
    image = Image.fromarray(levels)
    if mode == "RGBA":
        image.putalpha(255)
    elif mode == "I;16":
        image = Image.fromarray(np.rint(red * 65535).astype(np.uint16))
        levels = np.rint(red * 255).astype(np.uint8)
    left = (457 - 391) // 2
    wanted = Image.fromarray(levels).resize((16, 16), Image.Resampling.LANCZOS, box=(left, 0, left + 391, 391))
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    monkeypatch.setattr("genkit.image.decode.BAND", 10_000)
    for file in (encoded(image), encoded(image.transpose(Image.Transpose.ROTATE_180), exif=exif)):
        difference = read(file, channels=3).astype(int) - np.asarray(wanted.convert("RGB"))
        assert np.abs(difference).max() <= 1


def test_a_large_picture_is_copied_by_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each whole copy of 9,400 x 9,400 pixels with alpha would take a third of a gigabyte."""
    handled: list[int] = []

    def measured(image: Image.Image) -> Image.Image:
        handled.append(image.width * image.height)
        return to_8_bit(image)

    monkeypatch.setattr("genkit.image.decode.to_8_bit", measured)
    picture = Image.new("RGBA", (3000, 2600), (9, 80, 200, 255))
    assert (read(encoded(picture, compress_level=1)) == (9, 80, 200)).all()
    assert max(handled) <= BAND
    assert sum(handled) <= 3000 * 2600


def test_grey_channel() -> None:
    pixels = read(encoded(Image.fromarray(QUADRANTS)), channels=1)
    assert pixels.shape == (16, 16, 1)
    assert pixels[0, 0, 0] == 76  # 0.299 * 255


def test_a_pixel_bomb_is_refused_before_it_is_decoded() -> None:
    """D07: a PNG header that claims 60,000 x 60,000 pixels, 10 GB when decoded."""
    """A PNG header that claims 60,000 x 60,000 pixels, 10 GB when decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    with pytest.raises(Exception, match="pixels"):
        read(io.BytesIO(bomb + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")))
    assert MAX_PIXELS < 60000 * 60000


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    """D05, D22: empty, text, and a format of which Pillow would run the code."""
    with pytest.raises(OSError, match="cannot identify"):
        read(io.BytesIO(content))


def test_a_truncated_file_is_refused() -> None:
    """D04."""
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        read(io.BytesIO(whole.getvalue()[:-500]))


def rgba(alpha: int = 255) -> NDArray[np.uint8]:
    return np.dstack([QUADRANTS, np.full((16, 16), alpha, np.uint8)])


def test_transparency_is_kept_in_four_channels() -> None:
    values = rgba()
    values[:8, :8, 3], values[:8, 8:, 3] = 0, 128
    pixels = read(encoded(Image.fromarray(values)), channels=4)
    assert pixels[2, 2].tolist() == [255, 255, 255, 0]  # whatever colour hides there
    assert np.abs(pixels[2, 12].astype(int) - [0, 255, 0, 128]).max() <= 1
    assert np.array_equal(pixels[8:], values[8:])


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK", "I;16", "1"])
def test_opaque_images_are_opaque_in_four_channels(mode: str) -> None:
    image = Image.fromarray(np.uint16(QUADRANTS[:, :, 0]) * 257) if mode == "I;16" else Image.fromarray(QUADRANTS)
    file = encoded(image if mode == "I;16" else image.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    pixels = read(file, channels=4)
    assert pixels.shape == (16, 16, 4)
    assert (pixels[:, :, 3] == 255).all()
    file.seek(0)
    assert np.array_equal(pixels[:, :, :3], read(file))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_padding_is_transparent_in_four_channels_and_white_in_three(mode: str) -> None:
    wide = Image.new(mode, (32, 16), (9, 80, 200) if mode == "RGB" else (9, 80, 200, 255))
    pixels = read(encoded(wide), 32, channels=4, fit="pad")
    assert (pixels[:8] == (255, 255, 255, 0)).all()
    assert (pixels[24:] == (255, 255, 255, 0)).all()
    assert (pixels[8:24] == (9, 80, 200, 255)).all()
    assert (read(encoded(wide), 32, fit="pad")[:8] == 255).all()


@pytest.mark.parametrize("hidden", [0, 255])
@pytest.mark.parametrize(("side", "fit"), [(256, "crop"), (67, "crop"), (67, "stretch"), (20, "pad")])
def test_hidden_colours_make_no_fringes(hidden: int, side: int, fit: str) -> None:
    """A red disc on a transparent ground of any colour: what can be seen is red, and its edge fades."""
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    disc = x**2 + y**2 < 0.1
    values = np.full((side, side, 4), hidden, np.uint8)
    values[:, :, 3] = 255 * disc
    values[disc] = (255, 0, 0, 255)
    pixels = read(encoded(Image.fromarray(values)), 32, channels=4, fit=fit)
    seen = pixels[:, :, 3] > 16
    assert (pixels[seen][:, 0] >= 250).all()
    assert (pixels[seen][:, 1:3] <= 5).all()
    assert ((pixels[:, :, 3] > 0) & (pixels[:, :, 3] < 255)).any()
    three = read(encoded(Image.fromarray(values)), 32, fit=fit)
    alpha = pixels[:, :, 3:] / 255
    assert np.abs(three - (pixels[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_what_is_known_of_a_file() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    shown = picture(encoded(Image.new("RGB", (300, 200), "grey"), "JPEG", exif=exif), 16, 3, "crop")
    assert (shown.width, shown.height, shown.mode, shown.grey, shown.transparent) == (200, 300, "RGB", True, False)
    shown = picture(encoded(Image.fromarray(rgba(0))), 16, 1, "crop")
    assert (shown.width, shown.height, shown.mode, shown.grey, shown.transparent) == (16, 16, "RGBA", True, True)
    palette = Image.fromarray(QUADRANTS).quantize(4)
    shown = picture(encoded(palette, transparency=palette.getpixel((0, 0))), 16, 3, "crop")
    assert (shown.mode, shown.grey, shown.transparent) == ("P", False, True)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_pixel_of_colour_is_not_grey(channel: int) -> None:
    values = np.full((16, 16, 3), 100, np.uint8)
    assert picture(encoded(Image.fromarray(values)), 16, 1, "crop").grey
    values[5, 7, channel] += 1
    assert not picture(encoded(Image.fromarray(values)), 16, 1, "crop").grey

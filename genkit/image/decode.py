"""One image file to one square of uint8 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Pillow reads dozens of formats; those with a history of hostile files are never tried.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
TRANSPARENT = ("LA", "PA", "RGBA", "La", "RGBa")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte of RGB, where Pillow begins to warn
BAND = 1 << 20  # pixels that are converted at a time
_ORIENTATION = 0x0112  # EXIF
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
_CLEAR_WHITE = (255, 255, 255, 0)


@dataclass(frozen=True)
class Picture:
    """An image as it is trained on, and what its file was.

    Attributes:
        pixels: uint8 (size, size, channels).
        width, height: of the upright image, before anything was cut or shrunk.
        mode: Pillow's name for how the file stores pixels.
        grey: red, green and blue are equal everywhere, once opaque.
        transparent: the file has transparency, used or not.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    mode: str
    grey: bool
    transparent: bool


def decode(file: BinaryIO, size: int, channels: int, fit: str) -> NDArray[np.uint8]:
    """The pixels of `picture`, uint8 (size, size, channels)."""
    return picture(file, size, channels, fit).pixels


def picture(file: BinaryIO, size: int, channels: int, fit: str) -> Picture:
    """Read the first frame of an image, upright and square.

    Args:
        file: a seekable binary file.
        size: side in pixels.
        channels: 1 grey, 3 RGB, both laid on white; 4 RGBA, where what is fully
            transparent is white.
        fit: `crop` the centre, `pad` with white (RGBA: transparent), or `stretch`.

    Raises:
        Exception: whatever Pillow raises for a file that it cannot read; ValueError for
            more than `MAX_PIXELS` and for pixel types with no agreed range.
    """
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
        mode, transparent = image.mode, has_transparency(image)
        if fit != "stretch":
            image.draft(None, (2 * size, 2 * size))  # large JPEGs: decode at a fraction, still finer than needed
        image.load()
        factor = max(1, min(image.size) // (2 * size))
        whole = shrunk(image, factor)
        square = to_square(whole.convert("RGBA") if channels == 4 else whole, factor, *image.size, size, fit)
        orientation = image.getexif().get(_ORIENTATION, 1)
    square.getexif()[_ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(square)
    if isinstance(orientation, int) and 5 <= orientation <= 8:  # lies on its side
        width, height = height, width
    opaque = upright if channels == 4 or upright.mode != "RGBA" else on_white(upright)
    pixels = np.asarray(opaque.convert(_MODES[channels])).reshape(size, size, channels)
    if channels == 4:
        pixels = np.where(pixels[:, :, 3:] == 0, np.array(_CLEAR_WHITE, np.uint8), pixels)
    return Picture(pixels, width, height, mode, is_grey(opaque), transparent)


def has_transparency(image: Image.Image) -> bool:
    return image.mode in TRANSPARENT or "transparency" in image.info


def is_grey(image: Image.Image) -> bool:
    """Whether the three colours of an L, RGB or RGBA image are equal everywhere."""
    if image.mode == "L":
        return True
    red, green, blue = np.moveaxis(np.asarray(image)[:, :, :3], 2, 0)
    return bool(np.array_equal(red, green) and np.array_equal(red, blue))


def shrunk(image: Image.Image, factor: int) -> Image.Image:
    """L, RGB or RGBA with `factor` x `factor` pixels averaged into one, fewer at the right and lower edges.

    It goes band by band, because whole copies of a large image would take a
    multiple of its memory.
    """
    width, height = image.size
    rows = max(1, BAND // (width * factor)) * factor
    tops = range(0, height, rows)
    # Pillow averages, as it resizes, colours in proportion to their alpha: what cannot be seen does not bleed
    bands = [to_8_bit(image.crop((0, top, width, min(top + rows, height)))).reduce(factor) for top in tops]
    whole = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    for top, band in zip(tops, bands, strict=True):
        whole.paste(band, (0, top // factor))
    return whole


def to_8_bit(image: Image.Image) -> Image.Image:
    """Any Pillow mode to L, RGB or, with transparency, RGBA; 16 bits are scaled."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(scale_to_8_bit(np.asarray(image)))
    if has_transparency(image):
        return image.convert("RGBA")
    return image if image.mode == "L" else image.convert("RGB")


def on_white(rgba: Image.Image) -> Image.Image:
    """RGBA to RGB on a white ground."""
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def scale_to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values (H, W) of 16 bits, or floats in [0, 1], to uint8.

    Raises:
        ValueError: values outside of these ranges.
    """
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise ValueError(f"grey values from {values.min()} to {values.max()} are not within 0..{top:g}")
    return np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def to_square(image: Image.Image, factor: int, width: int, height: int, size: int, fit: str) -> Image.Image:
    """What was width x height before it was `shrunk` by `factor`, resized with a Lanczos filter to size x size.

    Padding is white, and transparent in RGBA, which becomes white when it is laid on white.
    """
    left, top, right, bottom = 0, 0, width, height
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        right, bottom = left + side, top + side
    inner = (size, size)
    if fit == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    box = (left / factor, top / factor, right / factor, bottom / factor)
    resized = image.resize(inner, Image.Resampling.LANCZOS, box=box)
    if fit != "pad":
        return resized
    square = Image.new(image.mode, (size, size), _CLEAR_WHITE if image.mode == "RGBA" else "white")
    square.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square

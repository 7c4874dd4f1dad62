"""Pixels to files: grids, encodings, and the note inside a file that says how it was drawn."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from genkit.errors import InputError, UsageError

FORMATS = ("png", "webp", "jpg", "npz")
SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpg", ".jpeg": "jpg", ".npz": "npz"}
MAX_SIDE = {"png": (1 << 31) - 1, "webp": 16383, "jpg": 65500}
_DESCRIPTION = 0x010E  # EXIF ImageDescription


def format_of(path: str) -> str:
    """The format that a file name asks for; `-` and names without a suffix are PNG.

    Raises:
        UsageError: a suffix that genkit does not write.
    """
    dot = path.rsplit("/", 1)[-1].rfind(".")
    suffix = path.rsplit("/", 1)[-1][dot:].lower() if dot > 0 else ""
    if suffix and suffix not in SUFFIXES:
        raise UsageError(f"cannot write images as {suffix!r}", f"use {', '.join(SUFFIXES)}")
    return SUFFIXES.get(suffix, "png")


def grid(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], columns: int | None = None, gap: int = 2
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) row by row on one white sheet, as square as can be.

    Args:
        columns: pictures in a row; default: ceil(sqrt(N)).
        gap: pixels between neighbours and around the edge.
    """
    n, (height, width, channels) = len(images), images[0].shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    sheet = np.full((gap + rows * (height + gap), gap + columns * (width + gap), channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def encode(pixels: NDArray[np.uint8], format: str, note: Mapping[str, str] | None = None) -> bytes:
    """One picture (H, W, C) as png or webp, both lossless, or jpg.

    Args:
        note: how it was drawn, e.g. seed, model and its hash; PNG text chunks, or a
            JSON object in the EXIF description. `read_note` finds it again.

    Raises:
        UsageError: the format cannot hold a picture this large.
    """
    if max(pixels.shape[:2]) > MAX_SIDE[format]:
        raise UsageError(
            f"{format} holds at most {MAX_SIDE[format]} pixels a side, not {max(pixels.shape[:2])}", "write a .png"
        )
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if format == "png":
        text = PngImagePlugin.PngInfo()
        for key, value in (note or {}).items():
            text.add_text(key, value)
        image.save(file, "PNG", pnginfo=text)
        return file.getvalue()
    exif = Image.Exif()
    if note:
        exif[_DESCRIPTION] = json.dumps(dict(note))
    if format == "webp":
        image.save(file, "WEBP", lossless=True, exif=exif)
    else:
        image.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


def encode_npz(images: NDArray[np.uint8], seeds: Sequence[int], note: Mapping[str, str] | None = None) -> bytes:
    """Pictures as arrays: `images` uint8 (N, H, W, C), `seeds` uint64 (N,), `note` a JSON string."""
    file = io.BytesIO()
    written = np.array(json.dumps(dict(note or {})))
    np.savez_compressed(file, images=images, seeds=np.array(seeds, np.uint64), note=written)
    return file.getvalue()


def read_note(data: bytes) -> dict[str, str]:
    """The note that `encode` left in a png, webp or jpg; empty when there is none.

    Raises:
        InputError: not such a file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            if image.format == "PNG":
                return {str(k): v for k, v in image.info.items() if isinstance(v, str)}
            note = json.loads(image.getexif().get(_DESCRIPTION, "{}"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"not a png, webp or jpg: {error}") from error
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in note.items()} if isinstance(note, dict) else {}

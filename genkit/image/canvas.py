"""Pixels to files: grids, encodings, and the note inside a file that says how it was drawn."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from genkit.errors import InputError, UsageError

MAX_SIDE = {"png": (1 << 31) - 1, "webp": 16383, "jpg": 65500}
OPAQUE = ("jpg", "gif", "mp4")  # what has no transparency
_WIDEST = 16  # pictures of one group side by side
_DESCRIPTION = 0x010E  # EXIF ImageDescription


class Sheet:
    """Room for `n` pictures row by row on white, as square as can be; on nothing, if they have transparency.

    Args:
        n: how many pictures.
        shape: (H, W, C) of each.
        columns: pictures in a row; default: ceil(sqrt(n)), or what suits the groups.
        gap: pixels between neighbours and around the edge.
        groups: of each picture; neighbours of the same group get rows of their own,
            or as many places as the largest group needs.

    Attributes:
        shape: (H, W, C) of the whole.
    """

    def __init__(
        self,
        n: int,
        shape: tuple[int, int, int],
        columns: int | None = None,
        gap: int = 2,
        groups: Sequence[Any] | None = None,
    ) -> None:
        self._height, self._width, channels = shape
        self._gap = gap
        self._columns, self._cells = _arranged(list(groups or [0] * n), columns)
        rows = self._cells[-1] // self._columns + 1
        self.shape = (gap + rows * (self._height + gap), gap + self._columns * (self._width + gap), channels)

    def fill(self, pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The sheet with the pictures on it; they may come one at a time."""
        pixels = np.full(self.shape, 255, np.uint8)
        pixels[:, :, 3:] = 0  # alpha
        for cell, picture in zip(self._cells, pictures, strict=True):
            y = self._gap + cell // self._columns * (self._height + self._gap)
            x = self._gap + cell % self._columns * (self._width + self._gap)
            pixels[y : y + self._height, x : x + self._width] = picture
        return pixels


def _arranged(groups: list[Any], columns: int | None) -> tuple[int, list[int]]:
    """How many columns a sheet has, and the cell of each picture, row by row."""
    sizes = [len(list(members)) for _, members in groupby(groups)]
    square, largest = math.ceil(math.sqrt(len(groups))), max(sizes)
    if columns is None:
        whole = largest * max(1, square // largest)  # whole groups in a row
        columns = whole if len(sizes) > 1 and whole <= _WIDEST else square
    columns = min(columns, len(groups))
    cells: list[int] = []
    start = 0
    for size in sizes:
        cells += range(start, start + size)
        start += largest if columns % largest == 0 else -(-size // columns) * columns
    return columns, cells


def grid(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], columns: int | None = None, gap: int = 2
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) that are all there, on one `Sheet`."""
    height, width, channels = images[0].shape
    return Sheet(len(images), (height, width, channels), columns, gap).fill(images)


def check_sides(shape: Sequence[int], format: str) -> None:
    """Raise UsageError when `format` cannot hold a picture of `shape` (H, W, C)."""
    if max(shape[:2]) > MAX_SIDE[format]:
        raise UsageError(
            f"{format} holds at most {MAX_SIDE[format]} pixels a side, not {max(shape[:2])}", "write a .png"
        )


def encode(pixels: NDArray[np.uint8], format: str, note: Mapping[str, str] | None = None) -> bytes:
    """One picture (H, W, C) as png or webp, both lossless, or jpg, where a transparent one lies on white.

    Args:
        note: how it was drawn, e.g. seed, model and its hash; PNG text chunks, or a
            JSON object in the EXIF description. `read_note` finds it again.

    Raises:
        UsageError: the format cannot hold a picture this large.
    """
    check_sides(pixels.shape, format)
    file = _Named(f"picture.{format}")
    pixels = on_white(pixels) if format in OPAQUE else pixels
    options: dict[str, Any]
    if format == "png":
        text = PngImagePlugin.PngInfo()
        options = {"pnginfo": text}
        for key, value in (note or {}).items():
            text.add_text(key, value.encode("utf-8", "backslashreplace").decode())  # file names may be of any bytes
    else:
        options = {"lossless": True, "exact": True} if format == "webp" else {"quality": 95, "subsampling": 0}
        options["exif"] = exif(json.dumps(dict(note)) if note else "")
    to_image(pixels).save(file, **options)
    return file.getvalue()


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 4) laid on white, (H, W, 3); any other as it is."""
    if pixels.shape[2] != 4:
        return pixels
    color, alpha = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


class _Named(io.BytesIO):
    """A file whose suffix tells Pillow the format; told otherwise, it imports five."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (H, W, C) for Pillow."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def exif(description: str) -> Image.Exif:
    """EXIF data that hold a description."""
    held = Image.Exif()
    if description:
        held[_DESCRIPTION] = description
    return held


def encode_npz(
    images: NDArray[np.uint8],
    seeds: Sequence[int] | None,
    latents: NDArray[np.float32],
    note: Mapping[str, str] | None = None,
    labels: Sequence[int] | None = None,
) -> bytes:
    """Pictures as arrays.

    Args:
        seeds: None if the latents come from none.
        labels: None if the model has no classes.

    Returns:
        an npz file of `images` uint8 (N, H, W, C), `seeds` uint64 (N,), `labels` int64
        (N,), `latents` float32 (N, nz), and `note`, a JSON string.
    """
    file = io.BytesIO()
    arrays: dict[str, Any] = {"images": images}
    if seeds is not None:
        arrays["seeds"] = np.array(seeds, np.uint64)
    if labels is not None:
        arrays["labels"] = np.array(labels, np.int64)
    np.savez_compressed(file, **arrays, latents=latents, note=np.array(json.dumps(dict(note or {}))))
    return file.getvalue()


def read_note(file: IO[bytes]) -> dict[str, str]:
    """The note that genkit left in a png, webp, jpg, gif, npz or mp4; empty when there is none.

    Args:
        file: one that can seek; only what holds the note is read.

    Raises:
        InputError: not such a file, or one too large for Pillow to open.
        UsageError: an mp4, and no package `av` to open it with.
    """
    note: str | dict[str, str]
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        note = _npz_note(file)
    elif head[4:] == b"ftyp":
        note = _mp4_note(file)
    else:
        note = _picture_note(file)
    if isinstance(note, dict):
        return note
    try:
        held = json.loads(note)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in held.items()} if isinstance(held, dict) else {}


def _picture_note(file: IO[bytes]) -> str | dict[str, str]:
    try:
        with Image.open(file, formats=("PNG", "WEBP", "JPEG", "GIF")) as image:
            if image.format == "PNG":
                return {str(k): v for k, v in image.info.items() if isinstance(v, str)}
            if image.format == "GIF":
                comment: bytes = image.info.get("comment", b"")
                return comment.decode("ascii", "replace")
            return str(image.getexif().get(_DESCRIPTION, ""))
    except Image.DecompressionBombError as error:
        raise InputError(f"too large a picture: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"not a png, webp, jpg or gif: {error}") from error


def _npz_note(file: IO[bytes]) -> str:
    from genkit.image.npz import read_arrays

    try:
        return str(read_arrays(file, ["note"]).get("note", ""))
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error


def _mp4_note(file: IO[bytes]) -> str:
    from genkit.image.film import video_library

    av = video_library()
    try:
        with av.open(file, format="mp4") as container:
            return str(container.metadata.get("comment", ""))
    except av.error.FFmpegError as error:
        raise InputError(f"not an mp4: {error.strerror}") from error

"""The film of a training: its sample sheets, one after the other, as an animated webp."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from genkit.image.canvas import on_white, to_image
from genkit.image.film import write_webp

FILM = "film.webp"  # in a run's samples/
FRAMES = 100  # at most; a longer run shows fewer of its sheets
SIDE = 640  # pixels at most; larger sheets are reduced by a whole number
_LENGTH, _SLOWEST, _LAST = 8000, 400, 2000  # milliseconds: of the film, of a frame at most, of the last one
# lossy, but hardly to be told from the sheets, which are there too
_QUALITY = {"quality": 90, "method": 2}


def is_due(samples: Path) -> bool:
    """Whether there are 1, 2, 4, 8, ... sheets: all films of a run take no longer than the last one twice."""
    count = len(_sheets(samples))
    return count > 0 and count & (count - 1) == 0


def film_of(samples: Path) -> bytes | None:
    """A film of the sheets `step-*.png` in a folder, evenly thinned out; None where there are none.

    It depends on the sheets alone, so that a run that is resumed goes on with it.
    Damaged ones are left out.
    """
    sheets = [path for path in _chosen(_sheets(samples)) if _is_whole(path)]
    if not sheets:
        return None
    shown = min(_SLOWEST, _LENGTH // len(sheets))
    durations = [shown] * (len(sheets) - 1) + [_LAST]
    file = io.BytesIO()
    write_webp(file, _frames(sheets), len(sheets), duration=durations, loop=0, **_QUALITY)
    return file.getvalue()


def _sheets(samples: Path) -> list[Path]:
    """By their steps."""
    found = ((re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in samples.glob("step-*.png"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def _chosen(sheets: Sequence[Path]) -> list[Path]:
    """At most `FRAMES` of them, the first and the last included."""
    places = np.linspace(0, len(sheets) - 1, min(len(sheets), FRAMES)).round().astype(int)
    return [sheets[place] for place in places]


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises
        return False
    return True


def _frames(sheets: Sequence[Path]) -> Iterator[Image.Image]:
    """RGB, all of one size."""
    size: tuple[int, int] | None = None
    for path in sheets:
        with Image.open(path, formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGBA"))
        frame = to_image(on_white(pixels))
        frame = frame.reduce(math.ceil(max(frame.size) / SIDE))
        size = size or frame.size
        yield frame if frame.size == size else frame.resize(size)

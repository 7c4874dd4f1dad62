"""Where drawn images go: a sheet, an animation, arrays, or a file each."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from genkit.cli.terminal import write
from genkit.errors import UsageError
from genkit.files import atomic_write, output_errors, write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genkit.image.engines import ImageEvent

FORMATS = ("png", "webp", "jpg", "gif", "mp4", "npz")
_STILL, _MOVING = ("png", "webp", "jpg", "npz"), ("gif", "webp", "mp4", "npz")
PREVIEWED = 16  # pictures on a preview; more would be specks


@dataclass(frozen=True)
class Target:
    """Which file is written.

    Attributes:
        out: a path, or "-".
        form: one of FORMATS.
        fps: of an animation; None for anything else.
        loop: have an animation begin again at its end.
        columns: pictures in a row of a sheet; None: as suits them.
        clobber: replace a file.
    """

    out: str
    form: str
    fps: int | None = None
    loop: bool = False
    columns: int | None = None
    clobber: bool = True


def choose_format(out: str | None, form: str | None, *, each: bool, walk: bool) -> str:
    """The format that --out and --format agree on, and that can hold what is drawn.

    Raises:
        UsageError: there is none.
    """
    suffix = "" if out in (None, "-") else Path(out or "").suffix.lower().removeprefix(".")
    suffix = "jpg" if suffix == "jpeg" else suffix
    if each:
        if out == "-" or suffix in FORMATS:
            raise UsageError(f"--each writes many files, and --out {out} is one", "name a folder")
        suffix = ""
    if suffix and suffix not in FORMATS:
        raise UsageError(f"--out {out}: genkit does not write .{suffix}", f"use .{', .'.join(FORMATS)}")
    if form and suffix and form != suffix:
        raise UsageError(f"--format {form} contradicts --out {out}", "leave --format out")
    chosen = form or suffix or ("gif" if walk else "png")
    if each and chosen == "npz":
        raise UsageError("--each does not go with npz", "leave --each out: one npz holds all images")
    if walk and chosen not in _MOVING:
        raise UsageError(f"--interpolate makes an animation, which no {chosen} is", f"use {', '.join(_MOVING)}")
    if not walk and chosen not in _STILL:
        raise UsageError(f"{chosen} holds an animation", "add --interpolate 0,5,9, or use png, webp, jpg or npz")
    return chosen


def write_each(
    events: Iterable[ImageEvent],
    folder: Path,
    form: str,
    note: dict[str, str],
    classes: Sequence[str],
    *,
    clobber: bool,
) -> Iterator[str]:
    """A file an image; yields the paths as they come.

    Args:
        classes: of the model; a file's name tells its class.
    """
    from genkit.image.canvas import encode

    with output_errors(folder):
        folder.mkdir(exist_ok=True)
    named: set[str] = set()
    for event in events:
        own, name = {}, f"latent{event.index:05d}"
        if event.seed is not None:
            own, name = {"seed": str(event.seed)}, f"seed{event.seed:05d}"
        if classes and event.label is not None:
            own["class"] = classes[event.label]
            plain = re.fullmatch(r"[\w-]{1,64}", own["class"])  # a name may hold what no file's name can
            name += f"-{own['class'] if plain else f'class{event.label}'}"
        if name in named:  # frames of a walk have the seed that it passed last
            name += f"-{event.index:05d}"
        named.add(name)
        path = folder / f"{name}.{form}"
        write_bytes(path, encode(event.pixels, form, note | own), clobber=clobber)
        yield str(path)


def write_one(
    events: Iterable[ImageEvent],
    n: int,
    shape: tuple[int, int, int],
    target: Target,
    note: dict[str, str],
    labels: Sequence[int] | None = None,
) -> Iterator[str]:
    """All `n` images, each of `shape` (H, W, C), in one file; yields its path.

    On a sheet those with the same label stay together. What cannot be written fails before the first image is drawn.
    """
    from genkit.image.canvas import Sheet, check_sides, encode

    if target.fps is not None and target.form != "npz":
        from genkit.image.film import check_film

        check_film(target.form, target.fps)
    elif target.form != "npz":
        check_sides(Sheet(n, shape, target.columns, groups=labels).shape, target.form)

    def fill(file: IO[bytes]) -> None:
        if target.form == "npz":
            file.write(_arrays(events, n, shape, note))
        elif target.fps is not None:
            _film(file, events, n, target, target.fps, note)
        else:
            sheet = Sheet(n, shape, target.columns, groups=labels)
            file.write(encode(sheet.fill(event.pixels for event in events), target.form, note))

    if target.out == "-":
        buffer = io.BytesIO()
        fill(buffer)
        write(buffer.getvalue())
        return
    with atomic_write(target.out, clobber=target.clobber) as file:
        fill(file)
    yield target.out


def _film(
    file: IO[bytes], events: Iterable[ImageEvent], n: int, target: Target, fps: int, note: dict[str, str]
) -> None:
    from genkit.image.film import write_film

    whole = file if file.seekable() else io.BytesIO()  # a pipe takes no mp4
    frames = (event.pixels for event in events)
    write_film(whole, frames, target.form, count=n, fps=fps, loop=target.loop, note=note)
    if isinstance(whole, io.BytesIO) and whole is not file:
        file.write(whole.getvalue())


def _arrays(events: Iterable[ImageEvent], n: int, shape: tuple[int, int, int], note: dict[str, str]) -> bytes:
    import numpy as np

    from genkit.image.canvas import encode_npz

    images, kept = np.empty((n, *shape), np.uint8), []
    for event in events:
        images[event.index] = event.pixels
        kept.append((event.seed, event.label, event.z))
    seeds = [seed for seed, _, _ in kept if seed is not None]
    labels = [label for _, label, _ in kept if label is not None]
    latents = np.stack([z for _, _, z in kept])  # (N, nz)
    return encode_npz(images, seeds if len(seeds) == n else None, latents, note, labels or None)


class Kept:
    """Passes events on and keeps some of the pictures for a preview.

    Args:
        n: how many come.
        spread: keep pictures from all over, not the first ones.
    """

    def __init__(self, events: Iterable[ImageEvent], n: int, *, spread: bool) -> None:
        self._events, self._every = events, -(-n // PREVIEWED) if spread else 1
        self._pictures: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[ImageEvent]:
        for event in self._events:
            if event.index % self._every == 0 and len(self._pictures) < PREVIEWED:
                self._pictures.append(event.pixels)
            yield event

    def sheet(self) -> NDArray[np.uint8]:
        """The pictures kept, side by side."""
        from genkit.image.canvas import grid

        return grid(self._pictures)

"""Frames to an animation, written as they are drawn: gif, webp or mp4."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from genkit.errors import UsageError
from genkit.image.canvas import OPAQUE, exif, on_white, to_image

if TYPE_CHECKING:
    from types import ModuleType

GIF_FPS = 50  # a GIF counts in hundredths, and players slow down what is faster than two of them
# crf 14 is hardly to be told from the frames; x264's macroblock tree, in small pictures,
# depends on memory that nobody has set, and so would the bytes
_X264 = {"crf": "14", "x264-params": "mbtree=0"}

Frames = Iterable[NDArray[np.uint8]]


def write_film(
    file: IO[bytes],
    frames: Frames,
    form: str,
    *,
    count: int,
    fps: int,
    loop: bool = True,
    note: Mapping[str, str] | None = None,
) -> None:
    """Write an animation; one frame is in memory, and in a webp the compressed ones.

    A gif has a palette of its own for each frame, a webp is lossless, an mp4 is H.264.
    Only a webp has transparency; in the others the frames lie on white.

    Args:
        file: open for writing; an mp4 needs one that can seek.
        frames: uint8 (H, W, C), `count` of them.
        loop: have the player begin again at the end; an mp4 cannot say so.
        note: as in `canvas.encode`; `canvas.read_note` finds it again.

    Raises:
        UsageError: as `check_film`.
    """
    check_film(form, fps)
    write = {"gif": _write_gif, "webp": _write_webp, "mp4": _write_mp4}[form]
    frames = map(on_white, frames) if form in OPAQUE else frames
    write(file, frames, count, fps, loop, json.dumps(dict(note)) if note else "")


def check_film(form: str, fps: int) -> None:
    """Raise UsageError when a format cannot be written, or not at this speed."""
    if form == "gif" and fps > GIF_FPS:
        raise UsageError(f"--fps {fps}: a gif shows at most {GIF_FPS} frames a second", "write a .webp or .mp4")
    if form == "mp4":
        video_library()


def video_library() -> ModuleType:
    """PyAV, an optional dependency.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise UsageError("mp4 needs the package av", "pip install 'genkit-cli[video]', or use a .webp") from None
    return av


def _write_gif(file: IO[bytes], frames: Frames, count: int, fps: int, loop: bool, note: str) -> None:
    """Frame by frame, because Pillow's own `save_all` holds all of them."""
    for i, pixels in enumerate(frames):
        image = to_image(pixels)
        if image.mode != "L":  # 256 levels are the palette
            image = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
        if i == 0:
            info: dict[str, Any] = {"comment": note.encode("ascii"), "duration": 1} | ({"loop": 0} if loop else {})
            file.writelines(GifImagePlugin.getheader(image.copy(), info=info)[0])
        shown = round((i + 1) * 100 / fps) - round(i * 100 / fps)  # in hundredths
        file.writelines(GifImagePlugin.getdata(image, duration=shown * 10, include_color_table=True))
    file.write(b";")


def _write_webp(file: IO[bytes], frames: Frames, count: int, fps: int, loop: bool, note: str) -> None:
    options = {"lossless": True, "exact": True, "loop": 0 if loop else 1, "duration": 1000 / fps, "exif": exif(note)}
    write_webp(file, map(to_image, frames), count, **options)


def write_webp(file: IO[bytes], images: Iterator[Image.Image], count: int, **options: Any) -> None:
    """Write `count` pictures as a webp, with Pillow's options; drawn one by one, and kept compressed alone."""
    first = next(images)
    rest = [_Reel(images, count - 1)] if count > 1 else []
    first.save(file, "WEBP", save_all=True, append_images=rest, **options)


class _Reel(Image.Image):
    """A picture of many frames that are drawn when Pillow winds on to them."""

    def __init__(self, frames: Iterator[Image.Image], count: int) -> None:
        super().__init__()
        self._frames, self.n_frames = frames, count

    def seek(self, frame: int) -> None:
        current = next(self._frames)
        self.im, self._mode, self._size = current.im, current.mode, current.size


def _write_mp4(file: IO[bytes], frames: Frames, count: int, fps: int, loop: bool, note: str) -> None:
    av = video_library()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = note
        stream: Any = None
        for pixels in frames:
            picture = np.broadcast_to(pixels, (*pixels.shape[:2], 3))  # grey to RGB
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps), options=_X264)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"  # the one that every player knows
                stream.thread_count = 1  # the bytes shall not depend on the machine's cores
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())

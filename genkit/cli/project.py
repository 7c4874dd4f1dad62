"""`genkit image --project`: the latent of a real image."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from genkit.cli.terminal import Terminal, is_terminal, write, write_json
from genkit.errors import InputError, UsageError
from genkit.files import atomic_write, input_errors, open_regular
from genkit.image.config import ImageSampleConfig
from genkit.image.lists import parse_classes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genkit.cli.ui import LineBar
    from genkit.image.project import Projection
    from genkit.pipeline import ImagePipeline

_INTERVAL = 10.0  # seconds between two plain lines


def check_projection(config: ImageSampleConfig, set_by_user: frozenset[str], engine: str, *, each: bool) -> None:
    """Raise UsageError when flags ask for anything but the latent of one image."""
    drawn = ("n", "seeds", "truncation", "columns", "latent", "mix", "interpolate", "frames", "fps", "loop")
    contradicting = [f"--{name}" for name in drawn if name in set_by_user] + ["--each"] * each
    if contradicting:
        flag = contradicting[0]
        raise UsageError(f"--project finds one latent, and {flag} says what is drawn", f"leave {flag} out")
    if engine == "onnx":
        raise UsageError("--project needs gradients, which --engine onnx has not", "leave --engine out")
    if config.classes is not None and (len(named := parse_classes(config.classes)) > 1 or named[0][1] is not None):
        raise UsageError(f"--class {config.classes}: a projection keeps to one class", "name one, without a number")


def project(
    pipeline: ImagePipeline,
    config: ImageSampleConfig,
    paths: Sequence[tuple[str, str]],
    note: dict[str, str],
    terminal: Terminal,
    *,
    seed: int,
    clobber: bool,
) -> NDArray[np.uint8]:
    """Find the latent of the image `config.project`, write it, and say how near it comes.

    Args:
        paths: file or "-", and format: npz has the latent, any other both pictures side by side.
        seed: of the starts.

    Returns:
        both pictures side by side, (H, W, C).
    """
    from genkit.image.canvas import encode, encode_npz, grid

    target = _target(str(config.project), pipeline)
    with ExitStack() as stack:  # what cannot be written fails before the search
        files: list[IO[bytes]] = [
            io.BytesIO() if path == "-" else stack.enter_context(atomic_write(path, clobber=clobber))
            for path, _ in paths
        ]
        found = _search(pipeline, target, config, seed, terminal)
        note = note | {"project": str(config.project), "steps": str(config.steps), "distance": f"{found.distance:.4f}"}
        labels = None
        if found.label is not None:
            labels, note["class"] = [found.label], pipeline.classes[found.label]
        both = grid([target, found.pixels])
        for file, (_, form) in zip(files, paths, strict=True):
            if form == "npz":
                file.write(encode_npz(found.pixels[None], None, found.z[None], note, labels))
            else:
                file.write(encode(both, form, note))
    for file in files:
        if isinstance(file, io.BytesIO):
            write(file.getvalue())
    _tell(found, note, [path for path, _ in paths if path != "-"], pipeline, terminal, seed)
    return both


def _search(
    pipeline: ImagePipeline, target: NDArray[np.uint8], config: ImageSampleConfig, seed: int, terminal: Terminal
) -> Projection:
    named = parse_classes(config.classes)[0][0] if config.classes is not None else None
    progress = _Progress(terminal, config.steps)
    try:
        return pipeline.project(target, steps=config.steps, seed=seed, label=named, on_step=progress.update)
    finally:
        progress.close()


def _tell(
    found: Projection, note: dict[str, str], files: list[str], pipeline: ImagePipeline, terminal: Terminal, seed: int
) -> None:
    if terminal.json:
        facts: dict[str, Any] = {"seeds": [seed], "files": files, "size": pipeline.size, "channels": pipeline.channels}
        if "class" in note:
            facts["labels"] = [note["class"]]
        write_json(note | facts | {"distance": round(found.distance, 4)})
        return
    write("".join(path + "\n" for path in files))
    drawn = f", class {note['class']}" if "class" in note else ""
    terminal.note(f"distance {note['distance']}{drawn}")


def _target(path: str, pipeline: ImagePipeline) -> NDArray[np.uint8]:
    """The image as the model would have seen it in training, its centre cropped: (H, W, C)."""
    from genkit.image.decode import decode

    with input_errors(path), open_regular(path) as file:
        try:
            return decode(file, pipeline.size, pipeline.channels, "crop")
        except Exception as error:  # decoders raise anything on hostile files
            raise InputError(f"--project {path} is not an image that genkit reads: {error}") from error


class _Progress:
    """How far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, terminal: Terminal, steps: int) -> None:
        self._terminal, self._steps, self._said = terminal, steps, time.monotonic()
        self._bar: LineBar | None = None
        if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not terminal.quiet:
            from genkit.cli.ui import LineBar

            self._bar = LineBar(color=terminal.colored(sys.stderr))

    def update(self, step: int, loss: float) -> None:
        text = f"step {step:,}  loss {loss:.4f}"
        if self._bar is not None:
            self._bar.update(step / self._steps, text)
        elif time.monotonic() - self._said >= _INTERVAL:
            self._said = time.monotonic()
            self._terminal.note(f"{step / self._steps:4.0%}  {text}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def projected_paths(project: str, out: str | None, form: str | None, chosen: str) -> list[tuple[str, str]]:
    """What is written: the file that the user named, or the latent and a picture named after the image.

    Args:
        form: what the user said; `chosen` what follows from that and from `out`.
    """
    if out is not None:
        return [(out, "npz" if out == "-" and form is None else chosen)]
    name = f"genkit-{Path(project).stem}"
    return [(f"{name}.{each}", each) for each in ([form] if form else ["npz", "png"])]

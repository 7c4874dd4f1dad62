"""What `text` and `image` share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from genkit import library
from genkit.cli.terminal import Terminal
from genkit.errors import InputError
from genkit.files import sha256
from genkit.runtime.device import resolve

if TYPE_CHECKING:
    from genkit.pipeline import ImagePipeline, TextPipeline

Event = TypeVar("Event")


def open_model(
    terminal: Terminal, name: str, task: Literal["text", "image"], *, device: str, precision: str, engine: str
) -> TextPipeline | ImagePipeline:
    """The pipeline of the model `name`, on the device that the flags mean, for a `with` statement.

    Raises:
        InputError: no such model, or one that does not do this task.
        UsageError, ResourceError: as `genkit.runtime.device.resolve`.
    """
    placement = resolve(device, precision, engine, task=task)
    folder = library.find(name)
    found = library.kind(folder)
    if found != task:
        article = "an" if found == "image" else "a"
        raise InputError(f"{name} is {article} {found} model", f"use genkit {found}")

    from genkit.pipeline import open_pipeline

    started = time.monotonic()
    pipeline = open_pipeline(folder, placement)
    terminal.detail(
        f"{folder} on {placement.device} in {placement.precision} ({placement.why}), "
        f"loaded in {time.monotonic() - started:.1f} s"
    )
    return pipeline


def weights_hash(folder: Path) -> str | None:
    """SHA-256 of the weights, which with the seed says what was drawn; None if they are in pieces."""
    path = folder / library.WEIGHTS
    return sha256(path) if path.is_file() else None


def timed(terminal: Terminal, events: Iterable[Event], unit: str) -> Iterator[Event]:
    """The events; with `--verbose`, how fast they came."""
    started, count = time.monotonic(), 0
    for event in events:
        count += 1
        yield event
    seconds = time.monotonic() - started
    terminal.detail(f"{count} {unit} in {seconds:.1f} s, {count / max(seconds, 1e-9):.0f} {unit}/s")

"""What `text` and `image` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from genkit import library
from genkit.cli.terminal import Terminal
from genkit.errors import InputError

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
    path = library.find(name)
    found = library.kind(path)
    if found != task:
        article = "an" if found == "image" else "a"
        raise InputError(f"{name} is {article} {found} model", f"use genkit {found}")

    from genkit.pipeline import load

    pipeline = load(path, device=device, precision=precision, engine=engine, note=terminal.detail)
    placed = pipeline.placement
    terminal.detail(f"{path} on {placed.device} in {placed.precision} by {placed.engine} ({placed.why})")
    return pipeline


def weights_hash(path: Path) -> str | None:
    """SHA-256 of the weights, which with the seed says what was drawn; None if they are in pieces."""
    from genkit.cache import content_hash

    path = path / library.WEIGHTS if path.is_dir() else path
    return content_hash(path) if path.is_file() else None


def timed(
    terminal: Terminal, events: Iterable[Event], unit: str, worth: Callable[[Event], int] = lambda event: 1
) -> Iterator[Event]:
    """The events; with `--verbose`, how long all took, when the first came, and the rate of all.

    Args:
        worth: how many units an event is.
    """
    started, count = time.monotonic(), 0
    first: float | None = None
    for event in events:
        count += worth(event)
        first = first or time.monotonic()
        yield event
    took = time.monotonic() - started
    rate = count / max(took, 1e-9)
    wait = (first or started) - started
    terminal.detail(f"{count} {unit} in {took:.2f} s, the first after {wait:.2f} s: {rate:.0f} {unit}/s")

"""A model ready to use: `load(name)` gives a text or an image pipeline.

    from genkit import load

    for piece in load("story").stream("Once upon a time", seed=7):
        print(piece.text, end="")

On a CPU text runs on llama.cpp and images on ONNX Runtime; torch is imported for an
accelerator, and for what only torch can do. While its engine is open, torch's number
of threads and its TF32 switches are the pipeline's; `close`, or leaving the `with`
block, puts them back. Nothing here touches the global random generators.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit import library
from genkit.errors import InputError
from genkit.pipeline.base import Note

if TYPE_CHECKING:
    from genkit.pipeline.image import ImagePipeline
    from genkit.pipeline.text import TextEvent, TextJob, TextPipeline

__all__ = ["ImagePipeline", "TextEvent", "TextJob", "TextPipeline", "load"]


def load(
    name: str | Path, *, device: str = "auto", precision: str = "auto", engine: str = "auto", note: Note | None = None
) -> TextPipeline | ImagePipeline:
    """Load a model by name.

    Args:
        name: see `genkit.library.find`.
        device, precision, engine: see `genkit.runtime.device.resolve`.
        note: is told what was chosen, and why, a line at a time.

    Raises:
        InputError: no such model, or files that are refused.
        ResourceError: no such device.
    """
    path = library.find(str(name))
    asked: dict[str, Any] = {"device": device, "precision": precision, "engine": engine, "note": note}
    if library.kind(path) == "image":
        from genkit.pipeline.image import ImagePipeline

        return ImagePipeline(path, **asked)
    family = library.family(path)
    if family in ("causal", "seq2seq"):
        from genkit.pipeline.hubtext import HubPipeline

        return HubPipeline(path, **asked)
    if family != "gpt":
        what = {"masked": "a masked model, which fills gaps", "classifier": "a classifier, which labels texts"}[family]
        remedy = {"masked": "genkit fill", "classifier": "genkit classify"}[family]
        raise InputError(f"{name} is {what}", f"use {remedy}")
    from genkit.pipeline.text import TextPipeline

    return TextPipeline(path, **asked)


def __getattr__(name: str) -> Any:
    """The kinds are imported when they are used: one half does not pay for the other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"genkit.pipeline.{'image' if name.startswith('Image') else 'text'}"), name)

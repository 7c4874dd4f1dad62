"""`genkit eval` of an image model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import click

from genkit.cli.options import chosen
from genkit.cli.sampling import open_model
from genkit.cli.terminal import Terminal, one_line, write, write_json
from genkit.errors import UsageError
from genkit.image.evalconfig import ImageEvalConfig
from genkit.image.modelconfig import CHANNELS

if TYPE_CHECKING:
    from genkit.image.evaluate import ImageEvaluation
    from genkit.pipeline import ImagePipeline

_NAMES = {
    "fid": "FID",
    "kid": "KID",
    "precision_inception": "precision(inception)",
    "recall_inception": "recall(inception)",
    "fd_efflite0": "FD(efflite0)",
    "kd_efflite0": "KD(efflite0)",
    "precision_efflite0": "precision(efflite0)",
    "recall_efflite0": "recall(efflite0)",
    "swd": "SWD",
    "diversity": "diversity",
    "nearest": "nearest",
}
_BAD = 5  # unreadable files that are named


def evaluate_images(
    ctx: click.Context,
    model: str,
    on_progress: Callable[[float, str], None],
    *,
    device: str,
    precision: str,
    engine: str,
) -> None:
    """Compare what a model draws with the images in `--data`, and print the figures.

    Raises:
        UsageError: not one place of images.
        InputError, ResourceError: as `genkit.image.evaluate.evaluate_images`.
    """
    terminal: Terminal = ctx.obj
    if len(ctx.params["data"]) > 1:
        raise UsageError("an image model is compared with one --data", "put the images into one folder")
    config, _ = chosen(ctx, ImageEvalConfig, data=ctx.params["data"][0])
    with open_model(terminal, model, "image", device=device, precision=precision, engine=engine) as opened:
        pipeline = cast("ImagePipeline", opened)

        from genkit.image import evaluate, features, inception
        from genkit.runtime.manager import Runtime

        placed = pipeline.placement
        runtime = Runtime(placed)
        with runtime.settings():
            found = evaluate.evaluate_images(config, pipeline.path, pipeline.draw, runtime, on_progress)
    if not features.available():
        terminal.note(f"FD, KD, precision and recall need a package: {features.REMEDY}")
    if config.inception is None and inception.find() is None:
        terminal.detail("FID and KID need the Inception file: genkit eval --fetch-inception")
    if found.bad:
        listed = "; ".join(f"{name}: {reason}" for name, reason in found.bad[:_BAD])
        more = " ..." if len(found.bad) > _BAD else ""
        images = "image" if len(found.bad) == 1 else "images"
        terminal.note(one_line(f"left out {len(found.bad):,} unreadable {images} ({listed}{more})"))
    if terminal.json:
        facts = {"model": model, "data": [config.data], **asdict(found), "bad": [list(bad) for bad in found.bad]}
        facts |= {"seed": config.seed, "device": placed.device, "precision": placed.precision, "engine": placed.engine}
        write_json(facts)
    else:
        write(_lines(found, config, f"{model} on {placed.device} in {placed.precision} by {placed.engine}"))


def _lines(found: ImageEvaluation, config: ImageEvalConfig, where: str) -> str:
    lines = [f"{'':<22}{'model':>9} {'floor':>9}"]
    for key, name in _NAMES.items():
        if (measured := found.metrics.get(key)) is not None:
            lines.append(f"{name:<22}{measured.model:9.4g} {measured.data:9.4g}")
    classes = {"data": ", of their classes", "turn": ", of all classes in turn", None: ""}[found.labels]
    seeds = f"{config.seed} to {config.seed + found.samples - 1}"
    n = f"{found.samples:,}"
    rows = {
        "compared": f"{n} samples, seeds {seeds}{classes}, with {n} of {found.images:,} images",
        "floor": f"{n} other images with the same {n}; diversity and nearest: of the images themselves",
        "images": f"{found.size}x{found.size} {CHANNELS[found.channels]}, lossless; data: {found.fit}, Lanczos",
        "model": where,
    }
    return "\n".join([*lines, *(f"{name:<15}{value}" for name, value in rows.items())]) + "\n"

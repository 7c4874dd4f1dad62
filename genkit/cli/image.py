"""`genkit image` and `genkit train-gan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from genkit import __version__, library
from genkit.cli.options import chosen, command, config_options, model_option, option, runtime_options, seed_option
from genkit.cli.sampling import open_model, timed, weights_hash
from genkit.cli.terminal import Terminal, is_terminal, random_seed, write
from genkit.cli.training import run_training, training_options
from genkit.errors import UsageError
from genkit.files import atomic_write, output_errors, write_bytes
from genkit.image.config import GANTrainConfig, ImageSampleConfig, parse_seeds

if TYPE_CHECKING:
    from genkit.image.engines import ImageEvent
    from genkit.pipeline import ImagePipeline

FORMATS = ("png", "webp", "jpg", "npz")

IMAGE_EXAMPLES = """
genkit image --n 16 --out grid.png
genkit image --seeds 0-15,40 --out favourites.webp
genkit image -m run --n 100 --each --out cats/
genkit image --n 4 --seed 7 --out - | feh -
"""

TRAIN_EXAMPLES = """
genkit train-gan --data photos/ --budget 2h --out run
genkit train-gan --data photos.zip --size 128 --d-norm spectral --regularizer r1 --out run
genkit train-gan --resume --out run
genkit train-gan --data photos/ --images 500k --dry-run
"""


@command("image", IMAGE_EXAMPLES)
@model_option(library.DEFAULT_IMAGE)
@config_options(ImageSampleConfig)
@seed_option
@option(
    "-o",
    "--out",
    section="Output",
    metavar="FILE|FOLDER|-",
    help="A png, webp, jpg or npz file, replaced in one step; - is standard output. Default: genkit-SEED.png.",
)
@option(
    "--format",
    "form",
    section="Output",
    type=click.Choice(FORMATS),
    metavar="|".join(FORMATS),
    help="Default: by the suffix of --out, else png.",
)
@option("--each", section="Output", is_flag=True, help="One file an image, seed00007.png, in the folder --out.")
@option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file.")
@runtime_options("image")
@click.pass_context
def image(
    ctx: click.Context,
    /,
    model: str,
    n: int,
    seeds: str | None,
    seed: int | None,
    out: str | None,
    form: str | None,
    each: bool,
    no_clobber: bool,
    device: str,
    precision: str,
    engine: str,
) -> None:
    """Draw images into a grid, or into single files.

    The paths of the files are printed. A PNG keeps its seeds and model:
    `genkit info grid.png` reads them back.
    """
    terminal: Terminal = ctx.obj
    config, set_by_user = chosen(ctx, ImageSampleConfig)
    if config.seeds is not None and (seed is not None or "n" in set_by_user):
        raise UsageError("--seeds contradicts --n and --seed", "--seeds alone says which images are drawn")
    drawn_seed = config.seeds is None and seed is None
    first = random_seed() if drawn_seed else seed or 0
    wanted = parse_seeds(config.seeds) if config.seeds else [first + i for i in range(config.n)]
    if out is None:
        out = f"genkit-{wanted[0]}" + ("" if each else f".{form or 'png'}")
    form = _format(out, form, each)
    if out == "-" and terminal.json:
        raise UsageError("--json and --out - both need standard output", "write the images to a file")
    if out == "-" and is_terminal(sys.stdout):
        raise UsageError("--out - would write an image to this terminal", "redirect it: --out - > grid.png")

    with open_model(terminal, model, "image", device=device, precision=precision, engine=engine) as opened:
        pipeline = cast("ImagePipeline", opened)
        if drawn_seed:
            terminal.note(f"seed {first}")
        note, clobber = _note(model, pipeline.path), not no_clobber
        events = timed(terminal, pipeline.draw(wanted), "images")
        if each:
            written = _write_each(events, Path(out), form, note, clobber=clobber)
        else:
            note["seeds"] = config.seeds or seed_list(wanted)
            shape = (pipeline.size, pipeline.size, pipeline.channels)
            written = _write_sheet(events, wanted, shape, out, form, note, clobber=clobber)
        if terminal.json:
            facts = {"seeds": wanted, "files": list(written), "size": pipeline.size, "channels": pipeline.channels}
            write(json.dumps(note | facts, ensure_ascii=False) + "\n")
        else:
            for path in written:
                write(path + "\n")


def _format(out: str, form: str | None, each: bool) -> str:
    """The format that --out and --format agree on."""
    suffix = "" if out == "-" else Path(out).suffix.lower().removeprefix(".")
    suffix = "jpg" if suffix == "jpeg" else suffix
    if each:
        if out == "-" or suffix in FORMATS:
            raise UsageError(f"--each writes many files, and --out {out} is one", "name a folder")
        if form == "npz":
            raise UsageError("--each does not go with npz", "leave --each out: one npz holds all images")
        return form or "png"
    if suffix and suffix not in FORMATS:
        raise UsageError(f"--out {out}: genkit does not write .{suffix}", f"use .{', .'.join(FORMATS)}")
    if form and suffix and form != suffix:
        raise UsageError(f"--format {form} contradicts --out {out}", "leave --format out")
    return form or suffix or "png"


def _note(model: str, folder: Path) -> dict[str, str]:
    """What is kept inside a file, so that it can be drawn again."""
    return {
        "software": f"genkit {__version__}",
        "model": model,
        "model_sha256": weights_hash(folder) or "",
    }


def seed_list(seeds: Sequence[int]) -> str:
    """`7-22` for a run of seeds; the inverse of `parse_seeds`."""
    return f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def _write_each(
    events: Iterable[ImageEvent], folder: Path, form: str, note: dict[str, str], *, clobber: bool
) -> Iterator[str]:
    """A file an image; yields the paths as they come."""
    from genkit.image.canvas import encode

    with output_errors(folder):
        folder.mkdir(exist_ok=True)
    for event in events:
        path = folder / f"seed{event.seed:05d}.{form}"
        write_bytes(path, encode(event.pixels, form, note | {"seed": str(event.seed)}), clobber=clobber)
        yield str(path)


def _write_sheet(
    events: Iterable[ImageEvent],
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    out: str,
    form: str,
    note: dict[str, str],
    *,
    clobber: bool,
) -> Iterator[str]:
    """All images, each of `shape` (H, W, C), in one file: what cannot be written fails before the work."""
    import numpy as np

    from genkit.image.canvas import Sheet, check_sides, encode, encode_npz

    sheet = Sheet(len(seeds), shape)
    if form != "npz":
        check_sides(sheet.shape, form)

    def data() -> bytes:
        if form != "npz":
            return encode(sheet.fill(event.pixels for event in events), form, note)
        images = np.empty((len(seeds), *shape), np.uint8)
        for event in events:
            images[event.index] = event.pixels
        return encode_npz(images, seeds, note)

    if out == "-":
        write(data())
        return
    with atomic_write(out, clobber=clobber) as file:
        file.write(data())
    yield out


@command("train-gan", TRAIN_EXAMPLES)
@config_options(GANTrainConfig)
@training_options
@runtime_options("train-gan")
@click.pass_context
def train_gan(ctx: click.Context, /, **values: Any) -> None:
    """Train a GAN on a folder or zip of images, and leave a model directory.

    Sub-folders are read too. Files that cannot be read are skipped and listed.
    Without --budget, --steps or --images it trains for ten minutes.
    """
    run_training(ctx, GANTrainConfig, task="train-gan")

"""`genkit image` and `genkit train-gan`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from genkit import __version__, library
from genkit.cli import imagejob
from genkit.cli.imagefiles import FORMATS, Kept, Target, choose_format, write_each, write_one
from genkit.cli.options import chosen, command, config_options, model_option, option, runtime_options, seed_option
from genkit.cli.project import check_projection, project, projected_paths
from genkit.cli.sampling import open_model, timed, weights_hash
from genkit.cli.terminal import STANDARD_OUTPUT, Terminal, check_preview, is_terminal, write, write_json
from genkit.cli.training import run_training, training_options
from genkit.errors import UsageError
from genkit.image.config import GANTrainConfig, ImageSampleConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genkit.image.engines import ImageEvent
    from genkit.pipeline import ImagePipeline

IMAGE_EXAMPLES = """
genkit image --n 16 --out grid.png
genkit image --seeds 0-15,40 --out favourites.webp
genkit image -m run --n 100 --each --out cats/
genkit image --n 4 --seed 7 --out - | feh -
genkit image -m fruits --class Cherry_1=8,Apple_Golden_1=8
genkit image --interpolate 0,5,9 --frames 90 --out walk.gif
genkit image --project cat.png --out me.npz
genkit image --latent me.npz,7 --mix 0.3
genkit image --n 1 --truncation 0.7 --preview
"""

TRAIN_EXAMPLES = """
genkit train-gan --data photos/ --budget 2h --out run
genkit train-gan --data photos.zip --arch dcgan --d-norm spectral --regularizer r1 --out run
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
    help="The file, replaced in one step; - is standard output. Default: genkit-SEED.png, for a walk .gif.",
)
@option(
    "--format",
    "form",
    section="Output",
    type=click.Choice(FORMATS),
    metavar="|".join(FORMATS),
    help="Default: by the suffix of --out. Walks are gif, webp, mp4 or npz.",
)
@option("--each", section="Output", is_flag=True, help="One file an image, seed00007.png, in the folder --out.")
@option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file.")
@option("--preview", section="Output", is_flag=True, help="Show up to 16 images on the terminal (standard error).")
@runtime_options("image")
@click.pass_context
def image(
    ctx: click.Context,
    /,
    model: str,
    seed: int | None,
    out: str | None,
    form: str | None,
    each: bool,
    no_clobber: bool,
    preview: bool,
    device: str,
    precision: str,
    engine: str,
    **_: Any,
) -> None:
    """Draw images into a grid, into single files, or a walk between them.

    The paths of the files are printed. A file keeps its seeds, classes and model:
    `genkit info grid.png` reads them back. In jpg, gif and mp4 transparent images lie
    on white.
    """
    terminal: Terminal = ctx.obj
    config, set_by_user = chosen(ctx, ImageSampleConfig)
    out = "-" if out in STANDARD_OUTPUT else out
    where = {"device": device, "precision": precision, "engine": engine}
    if config.project is not None:
        check_projection(config, set_by_user, engine, each=each)
        paths = projected_paths(config.project, out, form, choose_format(out, form, each=False, walk=False))
        _check_streams(terminal, paths[0][0], preview)
        with open_model(
            terminal, model, "image", **where | ({"engine": "torch"} if engine == "auto" else {})
        ) as opened:
            pipeline = cast("ImagePipeline", opened)
            note = _note(model, pipeline.path)
            both = project(pipeline, config, paths, note, terminal, seed=seed or 0, clobber=not no_clobber)
        if preview:
            _show(both, terminal)
        return
    imagejob.check_request(config, set_by_user, seed, each)
    walk = config.interpolate is not None
    first = imagejob.first_stop(config, seed)
    form = choose_format(out, form, each=each, walk=walk)
    if out is None:
        out = f"genkit-{first}" + ("" if each else f".{form}")
    _check_streams(terminal, out, preview)

    with open_model(terminal, model, "image", **where) as opened:
        from genkit.image.canvas import OPAQUE

        pipeline = cast("ImagePipeline", opened)
        job = imagejob.plan(pipeline, config, n=config.n if "n" in set_by_user else None, first=first)
        if seed is None and config.seeds is None and config.latent is None and not walk:
            terminal.note(f"seed {first}")
        if pipeline.channels == 4 and form in OPAQUE:
            terminal.note(f"{form} has no transparency: the images lie on white")
        note = _note(model, pipeline.path) | job.note
        events: Iterable[ImageEvent] = timed(terminal, job.draw(), "images")
        if preview:
            events = kept = Kept(events, job.count, spread=walk or bool(pipeline.classes))
        if each:
            own = {key: value for key, value in note.items() if key not in ("seeds", "class")}
            written = write_each(events, Path(out), form, own, pipeline.classes, clobber=not no_clobber)
        else:
            fps = config.fps if walk else None
            target = Target(out, form, fps, config.loop, config.columns, clobber=not no_clobber)
            shape = (pipeline.size, pipeline.size, pipeline.channels)
            written = write_one(events, job.count, shape, target, note, job.labels)
        if terminal.json:
            facts: dict[str, Any] = {"seeds": job.seeds, "files": list(written)}
            facts |= {"size": pipeline.size, "channels": pipeline.channels}
            if job.labels is not None:
                facts["labels"] = [pipeline.classes[label] for label in job.labels]
            write_json(note | facts)
        else:
            for path in written:
                write(path + "\n")
    if preview:
        _show(kept.sheet(), terminal)


def _show(pixels: NDArray[np.uint8], terminal: Terminal) -> None:
    from genkit.cli import ui

    ui.preview(pixels, terminal)


def _check_streams(terminal: Terminal, out: str, preview: bool) -> None:
    """Raise UsageError when standard output or error is not what it should be."""
    if out == "-" and terminal.json:
        raise UsageError("--json and --out - both need standard output", "write the images to a file")
    if out == "-" and is_terminal(sys.stdout):
        raise UsageError("--out - would write an image to this terminal", "redirect it: --out - > grid.png")
    if preview:
        check_preview(terminal)


def _note(model: str, folder: Path) -> dict[str, str]:
    """What is kept inside a file, so that it can be drawn again."""
    return {
        "software": f"genkit {__version__}",
        "model": model,
        "model_sha256": weights_hash(folder) or "",
    }


@command("train-gan", TRAIN_EXAMPLES)
@config_options(GANTrainConfig)
@training_options
@option("--preview", section="Run", is_flag=True, help="Show each sample grid on the terminal (standard error).")
@runtime_options("train-gan")
@click.pass_context
def train_gan(ctx: click.Context, /, **values: Any) -> None:
    """Train a GAN on a folder or zip of images, and leave a model directory.

    Sub-folders are read too. Files that cannot be read are skipped and listed.
    Without --budget, --steps or --images it trains for ten minutes.
    """
    run_training(ctx, GANTrainConfig, task="train-gan")

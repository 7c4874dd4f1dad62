"""`genkit explain` of an image model."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from genkit import __version__
from genkit.cli.imagejob import seed_list
from genkit.cli.sampling import open_model, weights_hash
from genkit.cli.terminal import Terminal, write, write_json
from genkit.errors import UsageError
from genkit.image.directionsconfig import DirectionsConfig

if TYPE_CHECKING:
    from genkit.pipeline import ImagePipeline

_DEFAULT = "genkit-directions.png"
_FLAT = 2.0  # times the mean share that the strongest direction should have


def explain_image(
    terminal: Terminal, model: str, config: DirectionsConfig, *, out: str | None, clobber: bool, device: str
) -> None:
    """Draw what the strongest directions of the latent space do to one image.

    Raises:
        UsageError: no png, more directions than there are, or no such class.
        InputError, ResourceError: as `ImagePipeline`.
        OutputError: the file cannot be written.
    """
    path = out or _DEFAULT
    if PurePath(path).suffix.lower() != ".png":
        raise UsageError(f"--out {path}: the strip is a png", "name the file so")
    with open_model(terminal, model, "image", device=device, precision="auto", engine="auto") as opened:
        pipeline = cast("ImagePipeline", opened)
        from genkit.files import atomic_write
        from genkit.image.canvas import encode
        from genkit.image.directions import find_directions, moved, strengths, strip

        steps = strengths(config.strength, config.columns)
        found = find_directions(pipeline.path, config.directions)
        start = pipeline.request(config.seed, config.classes)
        note = {"software": f"genkit {__version__}", "model": model, "model_sha256": weights_hash(pipeline.path) or ""}
        note |= {"seeds": seed_list([config.seed]), "directions": str(config.directions)}
        note |= {"strength": f"{config.strength:g}", "columns": str(config.columns)}
        named: dict[str, Any] = {}
        if start.label is not None:
            note["class"] = named["class"] = pipeline.classes[start.label]
        with atomic_write(path, clobber=clobber) as file:  # what cannot be written fails before anything is drawn
            pictures = [event.pixels for event in pipeline.render(moved(start, found, steps))]
            file.write(encode(strip(pictures, found, steps), "png", note))
    if found.shares[0] < _FLAT / pipeline.nz:
        terminal.note(
            f"the first layer treats all directions nearly alike (the first has {found.shares[0]:.1%} of all change, "
            f"the mean is {1 / pipeline.nz:.1%}), so none may show much"
        )
    if not terminal.json:
        write(path + "\n")
        return
    rows = [
        {"index": index, "gain": float(gain), "share": float(share)}
        for index, (gain, share) in enumerate(zip(found.gains, found.shares, strict=True))
    ]
    facts = {key: note[key] for key in ("software", "model", "model_sha256")} | {"seed": config.seed} | named
    facts |= {"directions": rows, "strengths": [float(step) for step in steps], "files": [path]}
    write_json(facts | {"size": pipeline.size, "channels": pipeline.channels})

"""`genkit explain`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.options import chosen, command, config_options, option
from genkit.cli.prompt import prompt_text
from genkit.cli.terminal import Terminal
from genkit.config import flag_name, options
from genkit.errors import InputError, UsageError
from genkit.image.directionsconfig import DirectionsConfig
from genkit.text.explainconfig import ExplainConfig

EXAMPLES = """
genkit explain story "Once upon a time there was a little dog."
genkit explain run "The cat sat on the" --json | jq .next.top
genkit explain hf:openai-community/gpt2 "The cat sat" --attention maps.png
genkit explain story "Tom was sad because" --attention head.html --layer 3 --head 1
genkit explain story "The dog was very" --attribution why.png --target " happy"
genkit explain kittens --out strip.png
genkit explain fruits --class Cherry_1 --directions 8 --strength 6
"""


@command("explain", EXAMPLES)
@click.argument("model", metavar="MODEL", shell_complete=by_metavar)
@click.argument("text", metavar="[TEXT]", nargs=-1)
@config_options(ExplainConfig)
@config_options(DirectionsConfig)
@option(
    "-o",
    "--out",
    section="Image models",
    metavar="FILE.png",
    help="The strip, replaced in one step. Default: genkit-directions.png.",
)
@option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file.")
@option(
    "--device",
    section="Device",
    default="auto",
    metavar="auto|cpu|cuda[:N]|mps|xpu",
    help="Where to run; auto takes the fastest.",
    show_default=True,
)
@click.pass_context
def explain(
    ctx: click.Context,
    /,
    model: str,
    text: tuple[str, ...],
    out: str | None,
    no_clobber: bool,
    device: str,
    **values: Any,
) -> None:
    """Look inside a MODEL.

    A text model reads TEXT, or standard input: how likely it finds each token from those
    before it, and how unsure it is there (the entropy of what it expects, in bits). On a
    terminal the text is coloured, yellow to red, by how surprising each token is, with bars
    for the entropy below; in a pipe it is a table. TEXT stands behind an end-of-text token,
    as in `genkit eval`. A masked model expects each token from all others, a classifier
    tells its classes.

    --attention draws the attention weights. --attribution draws how much each token speaks
    for the likeliest next token, or for --target: integrated gradients from a text of
    end-of-text tokens to TEXT (of mask tokens, where the model has one). What it shows is
    what a score rests on inside the model, not what is true.

    An image model: the directions of its latent space that change most what its first layer
    makes (SeFa), and what each does to the image of --seed.
    """
    terminal: Terminal = ctx.obj
    folder = library.find(model)
    if folder.is_file():
        raise InputError(f"{model}: a .gguf file is not explained", "name the model directory that it was made from")
    kind = library.kind(folder)
    _check_flags(ctx, kind)
    if kind == "image":
        if text:
            raise UsageError(f"{model} is an image model, and reads no text", "leave the text out")
        from genkit.cli.explainimage import explain_image

        config, _ = chosen(ctx, DirectionsConfig)
        explain_image(terminal, model, config, out=out, clobber=not no_clobber, device=device)
        return
    from genkit.cli.explaintext import explain_text

    settings, given = chosen(ctx, ExplainConfig)
    aimed = next((f"--{name}" for name in ("target", "position", "steps") if name in given), None)
    said = prompt_text(ctx, text)
    explain_text(terminal, model, folder, said, settings, aimed=aimed, clobber=not no_clobber, device=device)


def _check_flags(ctx: click.Context, kind: str) -> None:
    """Raise UsageError for settings of the other kind of model."""
    other = ExplainConfig if kind == "image" else DirectionsConfig
    flags = {field.name: flag_name(field) for field, _ in options(other)}
    if kind == "text":
        flags["out"] = "--out"
    for name, flag in flags.items():
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None):
            raise UsageError(f"{flag} is not for {kind} models", f"see {ctx.command_path} --help")

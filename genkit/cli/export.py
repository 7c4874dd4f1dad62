"""`genkit export`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.options import command, option
from genkit.cli.terminal import Terminal, write, write_json
from genkit.errors import UsageError

FORMATS = ("gguf", "onnx", "hf")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")

EXAMPLES = """
genkit export story --to gguf --precision int8 --out story.gguf
genkit export run --to hf --precision bf16 --out story-hf
genkit export kittens --to onnx --out kittens.onnx
genkit export run/adapter --to gguf --out tuned.gguf
"""


@command("export", EXAMPLES)
@click.argument("model", shell_complete=by_metavar, metavar="MODEL")
@option(
    "--to",
    "form",
    section="Output",
    type=click.Choice(FORMATS),
    required=True,
    metavar="|".join(FORMATS),
    help="gguf: llama.cpp. hf: transformers and vLLM, a folder. onnx: any ONNX runtime, images only.",
)
@option("-o", "--out", section="Output", required=True, metavar="PATH", help="The file, or the folder, to write.")
@option(
    "--precision",
    section="Output",
    type=click.Choice(PRECISIONS),
    metavar="|".join(PRECISIONS),
    help="Of the weights. Default: fp32, or a quantised model's own. int8 is gguf's Q8_0, int4 its Q4_0.",
)
@option(
    "--base", section="Output", metavar="MODEL", help="Merge an adapter with this model. Default: the one it names."
)
@option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file or folder.")
@click.pass_context
def export(
    ctx: click.Context, /, model: str, form: str, out: str, precision: str | None, base: str | None, no_clobber: bool
) -> None:
    """Write MODEL in a format that other programs read.

    MODEL may be a folder with a LoRA adapter, of genkit or of peft: it is merged with
    its base.

    The path is printed. A file of that name is replaced in one step, a folder only
    if genkit exported it before.
    """
    terminal: Terminal = ctx.obj
    if not out or out == "-":
        raise UsageError("--out must name a file or folder", "an export is not streamed")
    if form != "hf" and out.endswith(os.sep):
        raise UsageError(f"--out {out} names a folder, and {form} is one file", "give a file name")
    folder = library.find_any(model)

    from genkit.export import export as write_export
    from genkit.export import usual_precision

    written = precision or usual_precision(folder, form)
    write_export(folder, Path(out), form, precision, base=base, clobber=not no_clobber)
    if terminal.json:
        facts = {"model": model, "to": form, "precision": written, "path": out, "bytes": _size(Path(out))}
        write_json(facts)
    else:
        write(out + "\n")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size

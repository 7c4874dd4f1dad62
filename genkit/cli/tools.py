"""`genkit info` and `genkit models`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from genkit import library
from genkit.cli.options import command
from genkit.cli.sampling import weights_hash
from genkit.cli.terminal import Terminal, flat, is_terminal, one_line, write
from genkit.errors import InputError
from genkit.files import check_safetensors, input_errors, read_json

PICTURES = (".png", ".webp", ".jpg", ".jpeg")

INFO_EXAMPLES = """
genkit info story
genkit info run --json | jq .metrics
genkit info grid.png
"""

MODELS_EXAMPLES = """
genkit models
genkit models --json | jq -r .[].name
"""


@command("info", INFO_EXAMPLES)
@click.argument("target", metavar="MODEL|PICTURE")
@click.pass_context
def info(ctx: click.Context, target: str) -> None:
    """Say what a model is: its shape, data, licence, training and metrics.

    For a picture that genkit drew: its seeds and the model that drew it.
    """
    terminal: Terminal = ctx.obj
    facts = _picture(Path(target)) if target.lower().endswith(PICTURES) else _model(target)
    if terminal.json:
        write(json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
    else:
        write("".join(f"{name}: {one_line(str(value))}\n" for name, value in flat(facts)))


@command("models", MODELS_EXAMPLES)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the bundled models, and those in runs/.

    On a terminal as a table, in a pipe as lines with tabs between the columns.
    """
    terminal: Terminal = ctx.obj

    found = library.bundled()
    runs = sorted(Path("runs").glob(f"*/{library.CONFIG}"))
    found |= {str(path.parent): path.parent for path in runs}
    facts = [_listed(name, folder) for name, folder in found.items()]
    if terminal.json:
        write(json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
        return
    heads = ("name", "makes", "parameters", "path")
    rows = [[str(fact[head]) for head in heads] for fact in facts]
    if is_terminal(sys.stdout):
        from genkit.cli import ui

        write(ui.table(heads, rows, color=terminal.colored(sys.stdout)))
    else:
        write("".join("\t".join(row) + "\n" for row in rows))


def _summary(name: str, folder: Path) -> dict[str, Any]:
    return {"name": name, "makes": library.kind(folder), "parameters": _parameters(folder), "path": str(folder)}


def _listed(name: str, folder: Path) -> dict[str, Any]:
    try:
        return _summary(name, folder)
    except InputError:  # one broken run does not hide the others
        return {"name": name, "makes": "unreadable", "parameters": None, "path": str(folder)}


def _model(name: str) -> dict[str, Any]:
    from genkit import library

    folder = library.find(name)
    facts = _summary(name, folder)
    facts["sha256"] = weights_hash(folder)
    facts["config"] = read_json(folder / library.CONFIG)
    if (folder / library.RECORD).is_file():
        record = read_json(folder / library.RECORD)
        facts |= {"training": record.get("config")}
        facts |= {key: record.get(key) for key in ("data", "trained", "metrics", "hardware", "genkit_version")}
    return facts


def _parameters(folder: Path) -> int | None:
    """Numbers in the weight files; None when there are none."""
    files = sorted(folder.glob("*.safetensors"))
    headers = [check_safetensors(path) for path in files]
    shapes = [e["shape"] for header in headers for key, e in header.items() if key != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes) if files else None


def _picture(path: Path) -> dict[str, Any]:
    from genkit.image.canvas import read_note

    with input_errors(path):
        data = path.read_bytes()
    note = read_note(data)
    if not note:
        raise InputError(f"{path} does not say how it was drawn", "genkit writes that into every picture it draws")
    return {"picture": str(path), **note}

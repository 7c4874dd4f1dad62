"""`genkit models`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from genkit import library
from genkit.cli.options import command
from genkit.cli.terminal import Terminal, is_terminal, one_line, write, write_json
from genkit.errors import InputError

EXAMPLES = """
genkit models
genkit models --json | jq -r .[].name
genkit models | cut -f 1
"""


@command("models", EXAMPLES)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the bundled models, those in runs/, and those of the hub in the local cache.

    On a terminal as a table, in a pipe as lines with tabs between the columns.
    """
    terminal: Terminal = ctx.obj
    facts = [_listed(name, folder) for name, folder in library.known().items()]
    if terminal.json:
        write_json(facts, indent=2)
        return
    heads = ("name", "makes", "parameters", "path")
    rows = [[one_line(str(fact[head])) for head in heads] for fact in facts]
    if is_terminal(sys.stdout):
        from genkit.cli import ui

        write(ui.table(heads, rows, color=terminal.colored(sys.stdout)))
    else:
        write("".join("\t".join(row) + "\n" for row in rows))


def summary(name: str, folder: Path) -> dict[str, Any]:
    """What `models` lists of a model, and `info` begins with."""
    return {
        "name": name,
        "makes": library.kind(folder),
        "parameters": library.parameters(folder),
        "path": str(folder),
    }


def _listed(name: str, folder: Path) -> dict[str, Any]:
    try:
        return summary(name, folder)
    except InputError:  # one broken run does not hide the others
        return {"name": name, "makes": "unreadable", "parameters": None, "path": str(folder)}

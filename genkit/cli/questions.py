"""What `fill` and `classify` share: texts from arguments or lines, answers to a stream or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genkit.cli.options import option
from genkit.cli.terminal import STANDARD_OUTPUT, Terminal, error_facts, is_terminal, one_line, printable, say, write
from genkit.errors import InputError, UsageError
from genkit.files import atomic_write

if TYPE_CHECKING:
    from genkit.text.questions import Refused


def question_options(function: Any) -> Any:
    """`--input` and `--output`, and what goes with them."""
    for add in (
        option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file."),
        option(
            "--output", section="Output", metavar="FILE|-", help="Write here; a file there is replaced in one step."
        ),
        option(
            "--text-field",
            section="Texts",
            default="text",
            show_default=True,
            metavar="TEXT",
            help="Field of .jsonl that holds the text.",
        ),
        option(
            "--input",
            section="Texts",
            metavar="FILE|-",
            help="Take each line of a .txt or .jsonl file; - is standard input, as text.",
        ),
    ):
        function = add(function)
    return function


def check_texts(ctx: click.Context, text: tuple[str, ...], source: str | None) -> bool:
    """Refuse no text at all, or two sources of it.

    Returns:
        whether the lines of `source` are JSON.
    """
    if text and source is not None:
        raise UsageError("--input holds the texts, and one was given besides", "leave one of them out")
    if any(not each.strip() for each in text):
        raise InputError("TEXT is empty", "give a text")
    if not text and source is None and (sys.stdin is None or is_terminal(sys.stdin)):
        click.echo(f"{ctx.get_usage()}\n\nGive a text, or pipe lines in. See {ctx.command_path} --help.", err=True)
        ctx.exit(2)
    suffix = "" if source in (None, "-") else Path(str(source)).suffix.lower()
    if suffix not in (".jsonl", ".txt", ""):
        raise UsageError(f"--input {source}: {suffix} is neither .txt nor .jsonl", "convert it, or pipe the texts in")
    return suffix == ".jsonl"


def put_refused(refused: Refused, put: Callable[[str], None], terminal: Terminal, *, as_json: bool) -> None:
    """Say why a line has no answer; in JSON the reason takes the answer's place."""
    from genkit.cli.samples import to_json

    say(one_line(str(refused.error)), bold="error:", color=terminal.colored(sys.stderr))
    if as_json:
        put(to_json({"id": refused.id, "error": error_facts(refused.error)}) + "\n")


def cell(text: str) -> str:
    """Text that keeps to its line and column."""
    return printable(" ".join(text.split()))


@contextmanager
def open_output(output: str | None, *, clobber: bool) -> Iterator[Callable[[str], None]]:
    """Where the answers go; a file appears when all of it is there, and is then named on standard output."""
    if output is None or output in STANDARD_OUTPUT:
        yield write
        return
    with atomic_write(output, clobber=clobber) as file:

        def put(piece: str) -> None:
            file.write(piece.encode())

        yield put
    write(f"{output}\n")

"""Where a prompt comes from: arguments, standard input, or both."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from genkit.cli.terminal import is_terminal
from genkit.errors import InputError, UsageError
from genkit.files import decode_utf8

LONGEST = 16 << 20  # bytes; more than any context holds


def prompt_text(ctx: click.Context, words: Sequence[str]) -> str:
    """The prompt that the arguments ask for.

    One argument is the prompt, and standard input is left alone. `-` stands for
    standard input; beside another argument the two are joined by a newline, in the
    order given. No argument reads standard input if it is not a terminal.

    Raises:
        UsageError: several prompts.
        InputError: standard input is empty, too long or not UTF-8.
        click.exceptions.Exit: nothing was given; the help is shown.
    """
    if not words:
        if sys.stdin is None or is_terminal(sys.stdin):
            click.echo(f"{ctx.get_usage()}\n\nGive a prompt, or pipe one in. See {ctx.command_path} --help.", err=True)
            ctx.exit(2)
        words = ["-"]
    if len(words) > 2 or (len(words) == 2 and list(words).count("-") != 1):
        raise UsageError(f"{len(words)} prompts were given", "put one prompt in quotes; `-` adds standard input")
    return "\n".join(_read_stdin() if word == "-" else _argument(word) for word in words)


def given_text(flag: str, value: str) -> str:
    """What `--json-schema` or `--grammar` gives: the thing itself, or the text of a file.

    Raises:
        InputError: neither.
    """
    what, remedy, begins = _KINDS[flag]
    if begins(value):
        return value
    try:
        with open(value, "rb") as file:
            data = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{flag} {value}: neither {what} nor a file that can be read: {reason}", remedy) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if not text.strip() or len(data) > LONGEST:
        raise InputError(f"{flag} {value}: not {what}", remedy)
    return text


def _is_schema(value: str) -> bool:
    return value.lstrip().startswith("{")


def _is_grammar(value: str) -> bool:
    return "::=" in value or value.startswith("%llguidance")  # which the engine refuses with its reason


_KINDS = {
    "--json-schema": ("a schema", "a schema begins with {", _is_schema),
    "--grammar": ("a grammar", "a grammar holds root ::= ...", _is_grammar),
}


def _argument(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise InputError("the prompt is not valid UTF-8", "convert it with iconv") from None
    return word


def _read_stdin() -> str:
    """Standard input without its final newline, which shells and editors add."""
    if sys.stdin is None:
        raise InputError("standard input is closed", "give the prompt as an argument")
    data = sys.stdin.buffer.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise InputError(f"the prompt on standard input is longer than {LONGEST >> 20} MiB", "give its end only")
    text = decode_utf8(data, "standard input").removesuffix("\n").removesuffix("\r")
    if not text:
        raise InputError("standard input holds no prompt", "give one; an argument of '' starts from nothing")
    return text

"""What a command says and where: results to stdout, everything else to stderr.

No Rich here, so that a short answer does not pay for it; `ui.py` has the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import click

from genkit.errors import GenkitError, OutputError, UsageError


@dataclass
class Terminal:
    """The shared flags that decide what is said. One object a process, in `ctx.obj`.

    Attributes:
        json: results, and errors, as JSON.
        quiet: errors only.
        verbose: also say what was chosen and how long it took.
        debug: tracebacks.
        follows: another process of the same torchrun job says what all of them have to say.
        color: `auto`, `always` or `never`.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    follows: bool = False
    color: str = "auto"

    def note(self, text: str) -> None:
        """One line to stderr, unless `--quiet`."""
        if not self.quiet:
            say(text)

    def detail(self, text: str) -> None:
        """One line to stderr with `--verbose`."""
        if self.verbose and not self.quiet:
            say(text)

    def colored(self, stream: IO[str] | None) -> bool:
        """Whether `stream` shall get colour: the flag beats the environment beats the terminal."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE", "0") != "0":
            return True
        return is_terminal(stream) and os.environ.get("TERM") != "dumb"


STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1")  # as a name of a result: its path is not printed behind it


def is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def check_preview(terminal: Terminal) -> None:
    """Raise UsageError when pictures cannot be shown on standard error."""
    if terminal.quiet:
        raise UsageError("--preview and --quiet contradict each other", "leave one of them out")
    if not is_terminal(sys.stderr):
        raise UsageError("--preview shows images on a terminal, and standard error is none", "leave --preview out")


def say(text: str, *, bold: str = "", color: bool = False) -> None:
    """One line to stderr, after the bold red word `bold`; lost when nobody takes it.

    A training run outlives the terminal, or the pager, that it reported to.
    """
    if sys.stderr is None:
        return
    if bold:
        text = f"{click.style(bold, fg='red', bold=True) if color else bold} {text}"
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def write(data: str | bytes, *, flush: bool = True) -> None:
    """A result to stdout. Text is UTF-8 whatever the locale.

    Raises:
        OutputError: there is no standard output, or it does not take the data.
        BrokenPipeError: its reader is gone.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed", "redirect it to a file")
    stream = sys.stdout.buffer
    rest = memoryview(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
    with writing("standard output"):
        while rest:  # with PYTHONUNBUFFERED the stream takes as much as it can, and raises the time after
            taken = stream.write(rest)
            if taken is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            rest = rest[taken:]
        if flush:
            stream.flush()


def write_json(facts: Any, *, indent: int | None = None) -> None:
    """A result to stdout as JSON, also where a file name in it is not text. Raises like `write`."""
    import json

    text = json.dumps(facts, ensure_ascii=False, indent=indent)
    write(text.encode("utf-8", "backslashreplace") + b"\n")  # such a byte becomes \udcff, which JSON reads


def flush() -> None:
    """Hand over what is still buffered for stdout. Raises like `write`."""
    if sys.stdout is not None:
        with writing("standard output"):
            sys.stdout.flush()


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn a failure to write to `where` into OutputError; a closed pipe stays one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {where}: {error.strerror}", "free some space or write elsewhere") from error


def error_facts(error: GenkitError) -> dict[str, Any]:
    """An error as JSON says it."""
    return {
        "code": type(error).__name__,
        "exit_code": error.exit_code,
        "message": one_line(error.message),
        "hint": one_line(error.hint or "") or None,
    }


def one_line(text: str) -> str:
    """`text` on one line with nothing in it that a terminal would act on."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_CONTROLS = {c: None for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}


def printable(text: str) -> str:
    """`text` without the control characters that a terminal would act on."""
    return text.translate(_CONTROLS)


def random_seed() -> int:
    """A seed that nobody chose, short enough to type again."""
    return int.from_bytes(os.urandom(4))


def flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as `config.n_layer: 8` lines; what is empty is left out."""
    lines: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines.extend(flat(value, f"{prefix}{name}."))
        elif isinstance(value, list | tuple):
            lines.extend([(prefix + name, ", ".join(map(str, value)))] if value else [])
        elif value not in (None, ""):
            lines.append((prefix + name, value))
    return lines

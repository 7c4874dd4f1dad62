"""The one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import IO, NoReturn

import click

from genkit.cli.terminal import Terminal, error_facts, flush, is_terminal, one_line, say
from genkit.errors import (
    EXIT_CLOSED_PIPE,
    TELLS,
    TOLD,
    GenkitError,
    Interrupted,
    OutputError,
    ResourceError,
    Terminated,
    TerminateSignal,
    UsageError,
)

_COURTESY = 5.0  # seconds in which rank 0 tells an error before others do
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def guarded(run: Callable[[], None], terminal: Terminal) -> int:
    """Call `run`; its failure becomes one line on stderr. Returns the exit code."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: terminal.note(f"warning: {one_line(str(message))}")
            code = _finish(run)
        flush()
        return code
    except BaseException as error:
        if terminal.debug:
            import traceback

            traceback.print_exc()
        try:
            flush()  # a result cut short still comes before the error
        except (OSError, GenkitError):
            _silence(sys.stdout)  # or the interpreter would try again at exit
        if _is_closed_pipe(error):
            _silence(sys.stdout, sys.stderr)
            return EXIT_CLOSED_PIPE
        failure = as_genkit(error)
        if _is_told_elsewhere(error, terminal):
            return failure.exit_code
        try:
            _report(failure, terminal)
        except OSError:
            _silence(sys.stderr)
        return failure.exit_code
    finally:
        signal.signal(signal.SIGTERM, previous)


def _finish(run: Callable[[], None]) -> int:
    try:
        run()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    return 0


def as_genkit(error: BaseException) -> GenkitError:
    """The error that says to a user what `error` says to a programmer."""
    if isinstance(error, GenkitError):
        return error
    if isinstance(error, click.NoSuchOption):
        near = error.possibilities
        return UsageError(
            f"no such option {error.option_name}", f"did you mean {near[0]}?" if near else _help_hint(error)
        )
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message().rstrip("."), _help_hint(error))
    if isinstance(error, TerminateSignal):
        return Terminated("terminated")
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted("interrupted")
    if isinstance(error, MemoryError):
        return ResourceError("out of memory", "a smaller model, batch or --n needs less")
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return OutputError(f"cannot write: {error.strerror}", "free some space or write elsewhere")
    return GenkitError(f"internal: {type(error).__name__}: {error}", "a bug in genkit; --debug shows where")


def _help_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context else None


def _report(error: GenkitError, terminal: Terminal) -> None:
    if isinstance(error, Interrupted | Terminated) and is_terminal(sys.stderr):
        say("")  # what was interrupted may have left a line unfinished
    if terminal.json:
        import json

        say(json.dumps({"error": error_facts(error)}, ensure_ascii=False))
    else:
        say(one_line(str(error)), bold="error:", color=terminal.colored(sys.stderr))


def _is_told_elsewhere(error: BaseException, terminal: Terminal) -> bool:
    """Whether another process of a torchrun job tells the user.

    Before the processes know one another, an error is most often one that all have. Rank 0
    then tells it, and torchrun ends the others at once.
    """
    notes = getattr(error, "__notes__", ())
    if terminal.follows and TELLS not in notes and TOLD not in notes:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_COURTESY)
    return TOLD in notes


def _is_closed_pipe(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _silence(*streams: IO[str] | None) -> None:
    """Point the descriptors at nothing, so that the interpreter's last flush succeeds."""
    for stream in streams:
        if stream is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminateSignal

"""What a user can do about a failure, and the exit code that tells a script.

    GenkitError            1   internal: a bug in genkit
    ├── UsageError         2   a flag, a config key or their combination
    ├── InputError         3   data, weights or prompt refused
    ├── OutputError        4   a result cannot be written
    ├── ResourceError      5   memory, device, precision
    ├── TrainingStopped    6   training stopped itself; the last good state is kept
    ├── PartialError       7   done, but bad inputs were skipped
    ├── RunBusyError       8   another process holds the run directory
    ├── Interrupted      130   SIGINT; training has saved
    └── Terminated       143   SIGTERM; training has saved

A closed pipe ends with 141 and no message; `genkit.cli.boundary` sees to that.
"""

from __future__ import annotations


class GenkitError(Exception):
    """One line for the user, and a remedy where there is one.

    Args:
        message: the offending value and the rule it breaks.
        hint: what to do instead; printed after the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(GenkitError):
    exit_code = 2


class InputError(GenkitError):
    exit_code = 3


class OutputError(GenkitError):
    exit_code = 4


class ResourceError(GenkitError):
    exit_code = 5


class TrainingStopped(GenkitError):
    exit_code = 6


class PartialError(GenkitError):
    exit_code = 7


class RunBusyError(GenkitError):
    exit_code = 8


class Interrupted(GenkitError):
    exit_code = 130


class Terminated(GenkitError):
    exit_code = 143


class TerminateSignal(KeyboardInterrupt):
    """SIGTERM where the program stands; at the boundary it becomes `Terminated`.

    Not an Exception, as KeyboardInterrupt is none: libraries tidy up differently after an
    exception of their own, and `threading` then forgets a thread that it has started.
    """


EXIT_CLOSED_PIPE = 141
TELLS, TOLD = "this rank of the torchrun job tells the user", "another rank of the torchrun job tells the user"
"""Notes on an error that ends several ranks."""

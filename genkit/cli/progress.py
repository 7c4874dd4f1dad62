"""What a batch says on its way."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from genkit.cli.inorder import Result
from genkit.cli.terminal import Terminal, error_facts, is_terminal, one_line, say

if TYPE_CHECKING:
    from genkit.cli.ui import LineBar
    from genkit.text.batches.lines import Lines

INTERVAL = 10.0  # seconds between two plain lines


class Report:
    """Counts lines and says how far it is: a bar on a terminal, else a line now and then.

    Attributes:
        lines, refused: how many there were, with those of an earlier command.
    """

    def __init__(self, terminal: Terminal, source: Lines) -> None:
        self._terminal, self._source = terminal, source
        self.lines = self.refused = self._done = self._tokens = 0
        self._started = self._said = time.monotonic()
        self._bar: LineBar | None = None
        # results that scroll by on the same terminal say more than a bar among them
        drawn = is_terminal(sys.stderr) and not is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"
        if drawn and not terminal.quiet:
            from genkit.cli.ui import LineBar

            self._bar = LineBar(color=terminal.colored(sys.stderr))

    def found(self, refused: bool) -> None:
        """A line that an earlier command has done."""
        self.lines += 1
        self.refused += refused

    def add(self, result: Result) -> None:
        """A line that has just been done."""
        self.lines += 1
        self._done += 1
        self._tokens += result.tokens
        if result.error is not None:
            self.refused += 1
            self._tell(result)
        if self._bar is not None:
            self._bar.update(self._fraction(), self._state())
        elif time.monotonic() - self._said >= INTERVAL:
            self._said = time.monotonic()
            fraction = self._fraction()
            self._terminal.note((f"{fraction:4.0%}  " if fraction is not None else "") + self._state())

    def resumed(self, part: str) -> None:
        """Say what an earlier command has done."""
        if self.lines:
            self._terminal.note(f"{part}: {self.lines:,} lines are done")

    def finish(self) -> None:
        """Say how it went, with `--verbose`."""
        self.close()
        self._terminal.detail(f"{self._state()} in {time.monotonic() - self._started:.1f} s")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _tell(self, result: Result) -> None:
        assert result.error is not None
        place = f"{self._source.name}, line {result.line.number}"
        if self._terminal.json:
            where = {"input": self._source.name, "line": result.line.number}
            text = json.dumps({"error": error_facts(result.error) | where}, ensure_ascii=False)
        else:
            text = one_line(f"{place}: {result.error}")
        if self._bar is not None:
            self._bar.say(text)
        else:
            say(text)

    def _fraction(self) -> float | None:
        size = self._source.size
        return None if size is None else min(1.0, self._source.taken / size) if size else 1.0

    def _state(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{self.lines:,} lines{refused}, {self._tokens:,} tokens, {self._tokens / seconds:,.0f} tokens/s"

"""Continuations on their way through an engine, some of them longer than its context.

Where the context is full a text goes on from the last half of it, as a new request. Its
prompt is out of sight sooner or later, and penalties and rules see what the request holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from genkit.runtime.seeds import derive_seed

if TYPE_CHECKING:
    from genkit.text.engines import TokenEvent, TokenRequest
    from genkit.text.writing import Writer


@dataclass
class Row:
    """A continuation on its way.

    Attributes:
        job, index: whose it is.
        request: what the engine has of it now.
        slides: goes on where the context is full.
        written: its tokens since `request` was made.
        windows: how often it went on.
    """

    job: int
    index: int
    request: TokenRequest
    writer: Writer
    slides: bool
    written: list[int] = field(default_factory=list)
    windows: int = 0

    def __post_init__(self) -> None:
        self._seed = self.request.seed

    @property
    def lacks_tokens(self) -> bool:
        return self.request.drawn + len(self.written) < self.request.config.max_new_tokens

    def slide(self, opening: Sequence[int], kept: int) -> None:
        """Begin a request that goes on from the last `kept` tokens, behind those that open every text."""
        before, config = self.request, self.request.config
        assert not isinstance(before.prompt, str)
        drawn = before.drawn + len(self.written)
        held = min(drawn, kept)
        gone = drawn - held  # tokens of the text that the new request does not see
        self.windows += 1
        self.request = replace(
            before,
            prompt=[*opening, *[*before.prompt, *self.written][-kept:]],
            config=config.replace(
                max_new_tokens=config.max_new_tokens - gone, min_new_tokens=max(0, config.min_new_tokens - gone)
            ),
            seed=derive_seed(self._seed, f"window {self.windows}"),
            drawn=held,
        )
        self.written = []


class Rows(Iterator["TokenRequest"]):
    """What an engine takes its requests from: rows that go on first, then new ones.

    There may be a request after there was none, as `TextEngine.generate` expects.

    Args:
        opening: the tokens that stand before every text.
    """

    def __init__(self, new: Iterator[Row], opening: Sequence[int]) -> None:
        self._new, self._opening = new, opening
        self._again: deque[Row] = deque()
        self._open: dict[int, Row] = {}
        self._count = 0

    def __next__(self) -> TokenRequest:
        row = self._again.popleft() if self._again else next(self._new)
        self._open[self._count] = row
        self._count += 1
        return row.request

    def take(self, event: TokenEvent, context: int) -> tuple[Row, str, str | None]:
        """The row of an event, the text that it makes certain, and how the row ended, if it did."""
        row, text, finish, full = self._open[event.index], "", event.done, False
        room = context - 1 - len(self._opening)
        if event.error is None:
            row.written.append(event.token)
            full = row.slides and event.done == "length" and row.lacks_tokens and room > 0
            text, finish = row.writer.push(event.token, None if full else event.done, event.text)
        if finish is not None:
            row.request.finished = True
            del self._open[event.index]
        elif full:
            row.slide(self._opening, max(1, min(context // 2, room)))
            self._again.append(row)
            del self._open[event.index]
        return row, text, finish

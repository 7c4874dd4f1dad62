"""Many prompts at a time, their results in the order of the lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from genkit.cli.samples import Sample
from genkit.cli.terminal import error_facts
from genkit.errors import GenkitError, PartialError
from genkit.text.safety.config import GIVEN_UP

if TYPE_CHECKING:
    from genkit.pipeline import TextEvent, TextJob, TextPipeline
    from genkit.pipeline.filtered import FilteredPipeline
    from genkit.text.batches.lines import Line, Lines
    from genkit.text.batches.shard import Shard
    from genkit.text.batches.tasks import LineReader, Refused, Task

AHEAD = 1024  # continuations


class Tasks:
    """The tasks in those lines that are in the shard."""

    def __init__(self, lines: Lines, reader: LineReader, shard: Shard | None) -> None:
        self._lines, self._reader, self._shard = lines, reader, shard
        self.name = lines.name

    def wait(self) -> bool:
        """Wait until there is a task; False at the end."""
        while (line := self._lines.wait()) is not None:
            if self._owns(line):
                return True
            self._take()
        return False

    def next(self) -> tuple[Line, Task | Refused] | None:
        """The next task; None where its line has not come yet, or at the end."""
        while (found := self._take()) is not None:
            if self._owns(found[0]):
                return found
        return None

    def _take(self) -> tuple[Line, Task | Refused] | None:
        line = self._lines.next()
        return None if line is None else (line, self._reader.read(line))  # also of others' lines, for their ids

    def _owns(self, line: Line) -> bool:
        return self._shard is None or self._shard.owns(line.number)


class Result(NamedTuple):
    """What became of a line: its JSON form, the tokens it took, and why it was refused if it was."""

    line: Line
    value: dict[str, Any]
    tokens: int
    error: GenkitError | None


class InOrder:
    """Does tasks, `parallel` continuations at a time; see `TextPipeline.run`.

    When no task is there yet, or `AHEAD` continuations are begun and an earlier one is not
    done, the engine finishes what it has before it is given more. So neither a source that
    pauses nor one long text holds up what is done, and little waits in memory.
    """

    def __init__(self, pipeline: TextPipeline | FilteredPipeline, tasks: Tasks, parallel: int | None) -> None:
        self._pipeline, self._tasks, self._parallel = pipeline, tasks, parallel
        self._slots: deque[_Slot] = deque()  # begun, in the order of the lines
        self._begun = 0  # continuations in them
        self._running: dict[int, _Slot] = {}  # by the number of the job in this run of the engine

    def results(self) -> Iterator[Result]:
        """The result of each line, as soon as it and those before it are there."""
        while self._tasks.wait():
            for event in self._pipeline.run(self._jobs(), parallel=self._parallel):
                slot = self._running.get(event.job)
                if slot is not None and slot.add(event):
                    del self._running[event.job]
                    yield from self._ready()
            yield from self._ready()

    def _jobs(self) -> Iterator[TextJob]:
        from genkit.pipeline import TextJob
        from genkit.text.batches.tasks import Refused

        number = 0
        while self._begun < AHEAD and (found := self._tasks.next()) is not None:
            line, task = found
            slot = _Slot(line, task, self._pipeline.piece)
            self._slots.append(slot)
            self._begun += slot.size
            if not isinstance(task, Refused):
                self._running[number] = slot
                number += 1
                yield TextJob(task.asked or task.prompt, task.config, task.seed, live=task.asked is not None)

    def _ready(self) -> Iterator[Result]:
        while self._slots and (result := self._slots[0].result) is not None:
            self._begun -= self._slots.popleft().size
            yield result


class _Slot:
    """A line on its way to its result.

    Attributes:
        size: how many continuations it is.
        result: None until it is there.
    """

    def __init__(self, line: Line, task: Task | Refused, piece: Callable[[int], str]) -> None:
        from genkit.text.batches.tasks import Refused

        self._line, self._task = line, task
        self.result: Result | None = None
        self.size = 1
        if isinstance(task, Refused):
            self._refuse(task.error)
            return
        self.size = self._left = task.config.n
        given = {"prompt": task.prompt} if task.messages is None else {"messages": task.messages}
        self._facts = {"id": task.id, **given, "seed": task.seed}
        self._samples = [Sample(task.seed, piece, beams=task.config.num_beams > 1) for _ in range(self.size)]
        self._done: list[Any] = [None] * self.size

    def add(self, event: TextEvent) -> bool:
        """Take in an event; whether the result is there."""
        if event.error is not None:
            self._refuse(event.error)
            return True
        if event.finish != GIVEN_UP:
            self._done[event.index] = self._samples[event.index].add(event)
        self._left -= event.finish is not None
        if self._left == 0:
            self._finish([sample for sample in self._done if sample is not None])
        return self.result is not None

    def _finish(self, samples: list[dict[str, Any]]) -> None:
        if not samples:
            self._refuse(PartialError("the filter rejected every draw", "raise --filter-attempts"))
            return
        missing = {"unfilled": self.size - len(samples)} if len(samples) < self.size else {}
        tokens = sum(sample["tokens"] for sample in samples)
        self.result = Result(self._line, self._facts | {"samples": samples} | missing, tokens, None)

    def _refuse(self, error: GenkitError) -> None:
        self.result = Result(self._line, {"id": self._task.id, "error": error_facts(error)}, 0, error)

"""Texts that judges let through: what they reject is drawn anew."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from genkit.config import LARGEST_SEED
from genkit.pipeline.text import PARALLEL, TextEvent, TextJob, TextPipeline
from genkit.text.config import GenerationConfig
from genkit.text.safety.config import GIVEN_UP

if TYPE_CHECKING:
    from genkit.text.dialogue import ChatPrompt
    from genkit.text.safety.judges import Judge

_FIRST = LARGEST_SEED + 4097  # beyond the seed of any first draw
_SEEDS = 1 << 64


def redraw_seed(seed: int, attempt: int) -> int:
    """The seed of draw `attempt`, from 1, of the sample whose own seed was rejected.

    It lies above all seeds that samples have of their own, and depends on these two
    numbers alone; two of them meet once in 2**63.
    """
    digest = hashlib.blake2b(f"{seed}/{attempt}".encode(), digest_size=16).digest()
    return _FIRST + int.from_bytes(digest) % (_SEEDS - _FIRST)


@dataclass(frozen=True)
class FilteredEvent(TextEvent):
    """A piece of a text that passed; or the only event of one that was given up, with finish "rejected".

    Attributes:
        rejected: draws of this text before it that did not pass.
    """

    rejected: int = 0


@dataclass
class _Draw:
    """A job on its way: one that was asked for, or another attempt at one of its texts."""

    number: int
    job: TextJob
    index: int = 0  # of its first text
    attempt: int = 0
    seed: int = 0  # of that text's first draw
    rows: dict[int, list[TextEvent]] = field(default_factory=dict)
    ended: int = 0  # of its texts


class FilteredPipeline:
    """A text pipeline whose texts are judged when they are whole.

    A text that a judge rejects is drawn anew, from a seed that depends on its own and on the
    attempt alone, until it passes or was drawn `attempts` times. What is drawn without chance,
    by a beam search or at temperature 0, would come out the same and is given up at once.

    Attributes:
        drawn: texts so far.
        rejected: how many of them, by the name of the judge.
        unfilled: texts that were given up.
    """

    def __init__(self, pipeline: TextPipeline, judges: Sequence[Judge], *, attempts: int = 10) -> None:
        self._pipeline, self._judges, self._attempts = pipeline, judges, attempts
        self.piece = pipeline.piece
        self.drawn = self.unfilled = 0
        self.rejected: Counter[str] = Counter()

    def complete(self, prompt: str, config: GenerationConfig | None = None, *, seed: int = 0) -> list[str | None]:
        """The continuations of `prompt`, whole; None for one that was given up."""
        config = config or GenerationConfig(**self._pipeline.defaults())
        texts: list[str | None] = [""] * config.n
        for event in self.stream(prompt, config, seed=seed):
            before = texts[event.index]
            texts[event.index] = None if event.finish == GIVEN_UP or before is None else before + event.text
        return texts

    def stream(
        self,
        prompt: str | ChatPrompt,
        config: GenerationConfig | None = None,
        *,
        seed: int = 0,
        parallel: int | None = None,
    ) -> Iterator[FilteredEvent]:
        """As `TextPipeline.stream`, but the events of a text come when it is whole and has passed."""
        config = config or GenerationConfig(**self._pipeline.defaults())
        for event in self.run([TextJob(prompt, config, seed)], parallel=parallel, most=config.n):
            if event.error:
                raise event.error
            yield event

    def run(
        self, jobs: Iterable[TextJob], *, parallel: int | None = None, most: int = PARALLEL
    ) -> Iterator[FilteredEvent]:
        """As `TextPipeline.run`, but the events of a text come when it is whole and has passed."""
        fresh, again = enumerate(jobs), deque[_Draw]()
        while True:
            running: dict[int, _Draw] = {}
            for event in self._pipeline.run(_jobs(fresh, again, running), parallel=parallel, most=most):
                draw = running[event.job]
                events = draw.rows.setdefault(event.index, [])
                events.append(event)
                if event.error is not None:
                    yield _passed(draw, event)
                elif event.finish is not None:
                    yield from self._judged(draw, event.index, again)
                if event.error is not None or event.finish is not None:
                    del draw.rows[event.index]
                    draw.ended += 1
                    if draw.ended == draw.job.config.n:  # else a long batch would hold all its prompts
                        del running[event.job]
            if not again:
                return

    def _judged(self, draw: _Draw, row: int, again: deque[_Draw]) -> Iterator[FilteredEvent]:
        """The events of a whole text if it passes; else it is put among those to draw `again`, or given up."""
        job, events = draw.job, draw.rows[row]
        text = "".join(event.text for event in events)
        prompt = job.prompt if isinstance(job.prompt, str) else ""
        self.drawn += 1
        judge = next((judge for judge in self._judges if judge.rejects(prompt, text)), None)
        if judge is None:
            yield from (_passed(draw, event) for event in events)
            return
        self.rejected[judge.name] += 1
        by_chance = job.config.temperature > 0 and job.config.num_beams == 1
        if by_chance and draw.attempt + 1 < self._attempts:
            seed, attempt = draw.seed if draw.attempt else job.seed + row, draw.attempt + 1
            anew = TextJob(job.prompt, job.config.replace(n=1), redraw_seed(seed, attempt), live=False)
            again.append(_Draw(draw.number, anew, draw.index + row, attempt, seed))
            return
        self.unfilled += 1
        yield FilteredEvent(draw.number, draw.index + row, "", GIVEN_UP, 0, rejected=draw.attempt + 1)


def _jobs(fresh: Iterator[tuple[int, TextJob]], again: deque[_Draw], running: dict[int, _Draw]) -> Iterator[TextJob]:
    """What to do next: first what has to be done `again`."""
    for place in itertools.count():
        if again:
            draw = again.popleft()
        elif (found := next(fresh, None)) is not None:
            number, job = found
            draw = _Draw(number, TextJob(job.prompt, job.config, job.seed, live=False))
        else:
            return
        running[place] = draw
        yield draw.job


def _passed(draw: _Draw, event: TextEvent) -> FilteredEvent:
    """The event as one of the text that it belongs to."""
    values = {f.name: getattr(event, f.name) for f in fields(event)}
    return FilteredEvent(**values | {"job": draw.number, "index": draw.index + event.index, "rejected": draw.attempt})

"""Continuations as text or as JSON, out of the events in which they come."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genkit.pipeline import TextEvent

SEPARATOR = "---\n"


def in_order(events: Iterable[TextEvent], n: int) -> Iterator[TextEvent]:
    """The events sample by sample: those of a later one wait until the earlier ones ended."""
    waiting: list[deque[TextEvent]] = [deque() for _ in range(n)]
    current = 0
    for event in events:
        waiting[event.index].append(event)
        while current < n and waiting[current]:
            ready = waiting[current].popleft()
            yield ready
            current += ready.finish is not None


def as_text(events: Iterable[TextEvent], start: str) -> Iterator[str]:
    """Samples as a reader wants them; each ends with one newline, a line of --- stands between two."""
    index, last = -1, "\n"
    for event in events:
        if event.index != index:
            yield SEPARATOR * (index >= 0)
            index = event.index
            yield start
            last = start or last
        yield event.text
        last = event.text or last
        if event.finish is not None and not last.endswith("\n"):
            yield "\n"


def as_json(
    events: Iterable[TextEvent],
    facts: dict[str, Any],
    piece: Callable[[int], str],
    *,
    lines: bool,
    last: Callable[[], dict[str, Any]] = dict,
) -> Iterator[str]:
    """A document of all samples, or a line for each as soon as it ends.

    Args:
        last: facts that are known when all samples are there; of the document only.
    """
    beams = facts["settings"]["num_beams"] > 1
    samples, current = [], Sample(facts["seed"], piece, beams=beams)
    for event in events:
        if (sample := current.add(event)) is None:
            continue
        current = Sample(facts["seed"], piece, beams=beams)
        if lines:
            yield to_json({"model": facts["model"], "prompt": facts["prompt"]} | sample) + "\n"
        else:
            samples.append(sample)
    if not lines:
        yield to_json(facts | {"samples": samples} | last(), indent=2) + "\n"


class Sample:
    """One continuation on its way to its JSON form.

    Args:
        seed: of the job; sample i has seed + i, and the beams of a search have the job's.
        piece: what a token reads as.
    """

    def __init__(self, seed: int, piece: Callable[[int], str], *, beams: bool) -> None:
        self._seed, self._piece, self._step = seed, piece, 0 if beams else 1
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def add(self, event: TextEvent) -> dict[str, Any] | None:
        """Take in an event; the whole continuation if it was the last."""
        self._texts.append(event.text)
        if event.logprob is not None and event.token is not None:
            top = [self._token(token, logprob) for token, logprob in event.top]
            self._logprobs.append(self._token(event.token, event.logprob) | {"top_logprobs": top})
        if event.finish is None:
            return None
        sample = {
            "index": event.index,
            "seed": self._seed + self._step * event.index,
            "text": "".join(self._texts),
            "finish": event.finish,
            "tokens": event.tokens,
        }
        sample |= {"rejected": rejected} if (rejected := getattr(event, "rejected", None)) is not None else {}
        return sample | ({"logprobs": self._logprobs} if self._logprobs else {})

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._piece(token), "id": token, "logprob": logprob if math.isfinite(logprob) else None}


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)

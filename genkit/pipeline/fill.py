"""Texts with gaps in, candidates out: masked models fill any gap, causal ones a gap at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from genkit.errors import GenkitError
from genkit.pipeline.base import Pipeline
from genkit.text.config import GenerationConfig
from genkit.text.gaps import Candidate, before_gap

if TYPE_CHECKING:
    from genkit.pipeline.text import TextPipeline

Gaps = list[list[Candidate]]


class MaskedFiller(Pipeline):
    """A masked model, on torch."""

    task = "fill"

    def _open(self) -> None:
        from genkit.runtime.manager import Runtime, memory_guard
        from genkit.text.masked import MaskedModel

        runtime = Runtime(self.placement)
        self._undo.enter_context(runtime.settings())
        with memory_guard("use --device cpu, or a smaller model"):
            self._model = MaskedModel(self.path, runtime)

    def fill(self, texts: Sequence[str], top_k: int) -> Iterator[Gaps | GenkitError]:
        """The gaps of each text, or why it has no answer."""
        for text in texts:
            try:
                yield self._model.fill(text, top_k)
            except GenkitError as error:
                yield error


class CausalFiller:
    """A causal model behind its pipeline: the next token's probabilities, before any sampling setting."""

    def __init__(self, pipeline: TextPipeline) -> None:
        self._pipeline = pipeline

    def fill(self, texts: Sequence[str], top_k: int) -> Iterator[Gaps | GenkitError]:
        """The gap of each text, or why it has no answer."""
        from genkit.pipeline.text import TextJob

        config = GenerationConfig(max_new_tokens=1, temperature=0.0, top_p=1.0, logprobs=top_k)
        found: list[Gaps | GenkitError] = [[] for _ in texts]
        places, jobs, prompts = [], [], []
        for place, text in enumerate(texts):
            try:
                prompts.append(before_gap(text))
                jobs.append(TextJob(prompts[-1], config, live=False))
                places.append(place)
            except GenkitError as error:
                found[place] = error
        for event in self._pipeline.run(jobs, most=max(1, len(jobs))):
            found[places[event.job]] = event.error or [
                [self._candidate(prompts[event.job], token, logprob) for token, logprob in event.top]
            ]
        yield from found

    def _candidate(self, prompt: str, token: int, logprob: float) -> Candidate:
        text = self._pipeline.piece(token)
        return Candidate(token, text, math.exp(logprob), prompt + text)

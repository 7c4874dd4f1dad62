"""Beam search: the likeliest texts instead of drawn ones, as `transformers` searches them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.text.sampling import Past, Rules, likeliest, penalise

NEVER = -1e9  # the score of what only fills a place


@dataclass(frozen=True)
class Beam:
    """A text on its way.

    Attributes:
        score: the sum of its log-probabilities after penalties, in fp32; once it has
            ended, divided by its length to the power of the length penalty.
        text: its tokens.
        logprobs, tops: for each, the model's own log-probability, and the likeliest
            tokens with theirs; empty unless `config.logprobs` asks for them.
        ended: by the end-of-text token or at the limit.
    """

    score: float
    text: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()
    ended: bool = False


class BeamDecoder(Protocol):
    """Rows that go on from one prompt; `logits` (rows, V) fp32 are of each row's next token."""

    @property
    def logits(self) -> Tensor: ...

    def begin(self, row: int, prompt: Sequence[int]) -> None: ...

    def select(self, rows: Sequence[int], tokens: int) -> None: ...

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> None: ...


@torch.inference_mode()
def beam_search(
    decoder: BeamDecoder, prompt: Sequence[int], rules: Rules, limit: int, *, begun: Sequence[int] | None = None
) -> list[Beam]:
    """The `num_beams` best texts of up to `limit` tokens, best first.

    At each step every beam is continued by every token. The `num_beams` best that have
    not ended are the next beams; those that have, and are among the `num_beams` best of
    all, compete for as many places. The search is over at the limit, or when the places
    are taken: with early stopping at once, else as soon as the best beam, were it to end
    here, would get none.

    Args:
        prompt: what the decoder begins with: a text to go on with, or an encoder's source.
        begun: what stands before the text that is searched; default: the prompt.

    Raises:
        InputError: the rules leave no token to go on with.
    """
    config, width = rules.config, rules.config.num_beams
    begun = prompt if begun is None else begun
    running = [Beam(0.0)] + [Beam(NEVER)] * (width - 1)  # equal at first, so one alone is continued
    kept = [Beam(NEVER)] * width
    for row in range(width):
        decoder.begin(row, prompt)
    for length in range(1, limit + 1):
        candidates = _continuations(decoder.logits[:width], running, rules, begun, last=length == limit)
        going = [(parent, beam) for parent, beam in candidates if not beam.ended][:width]
        ended = [_scaled(beam, length, config.length_penalty) for _, beam in candidates[:width] if beam.ended]
        kept = sorted([*kept, *ended], key=lambda beam: -beam.score)[:width]
        if not going or going[0][1].score == -math.inf:
            break
        best = _scaled(going[0][1], length, config.length_penalty).score
        if kept[-1].ended and (config.early_stopping or best <= kept[-1].score):
            break
        running = [beam for _, beam in going]
        held = len(begun) + length - 1
        decoder.select([parent for parent, _ in going], held)
        decoder.step([beam.text[-1] for beam in running], [held] * width)
    found = [beam for beam in kept if beam.ended and beam.score > -math.inf]
    if not found:
        raise InputError("the rules leave no token to go on with", "loosen them")
    return found


def _continuations(
    logits: Tensor, running: list[Beam], rules: Rules, begun: Sequence[int], *, last: bool
) -> list[tuple[int, Beam]]:
    """The best (beam, continuation) by one token, so many that as many have not ended as there are beams."""
    own = logits.log_softmax(-1)  # (B, V)
    scores = torch.tensor([beam.score for beam in running], device=own.device)
    scores = penalise(own, rules, [Past(begun, list(beam.text)) for beam in running]) + scores.unsqueeze(1)
    most = max(2, 1 + len(rules.endings)) * len(running)
    best = scores.flatten().topk(min(most, scores.numel()))
    parents, tokens = (best.indices // own.shape[1]).tolist(), (best.indices % own.shape[1]).tolist()
    asked = rules.config.logprobs
    logprobs = own[parents, tokens].tolist() if asked is not None else []
    tops = likeliest(own, asked) if asked is not None else []
    found = []
    for i, (score, parent, token) in enumerate(zip(best.values.tolist(), parents, tokens, strict=True)):
        beam = running[parent]
        beam = replace(beam, score=score, text=(*beam.text, token), ended=last or token in rules.endings)
        if asked is not None:
            beam = replace(beam, logprobs=(*beam.logprobs, logprobs[i]), tops=(*beam.tops, tops[parent]))
        found.append((parent, beam))
    return found


def _scaled(beam: Beam, length: int, penalty: float) -> Beam:
    return replace(beam, score=float(np.float32(beam.score) / np.float32(length**penalty)))

"""How likely each token of a text is to a model, and how sure the model is of what comes there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """A token, or a label, that a model thinks possible."""

    id: int
    probability: float


@dataclass(frozen=True)
class Place:
    """What a model expects at one place.

    Attributes:
        entropy: of its distribution there, in bits.
        top: the likeliest tokens, best first.
    """

    entropy: float
    top: tuple[Candidate, ...]


@dataclass(frozen=True)
class Reading(Place):
    """A token of a text, and what a model expected at its place.

    Attributes:
        logprob: of the token, in nats.
        rank: how many tokens are at least as likely, itself included: 1 is the likeliest.
    """

    id: int
    logprob: float
    rank: int

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)

    @property
    def surprise(self) -> float:
        """-log2 of its probability, in bits."""
        return -self.logprob / math.log(2)


def places(logits: Tensor, top: int) -> list[Place]:
    """What logits (N, V) say of N places."""
    logs = logits.double().log_softmax(-1)  # (N, V)
    best = logs.topk(min(top, logs.shape[1]), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
    named = [tuple(Candidate(i, p) for i, p in zip(*pair, strict=True)) for pair in pairs]
    return [Place(entropy, best) for entropy, best in zip(_entropy(logs).tolist(), named, strict=True)]


def readings(logits: Tensor, ids: Sequence[int], top: int) -> list[Reading]:
    """What logits (N, V) say of the N tokens `ids` that stand there."""
    logs = logits.double().log_softmax(-1)  # (N, V)
    own = logs.gather(1, torch.tensor(ids, device=logs.device).unsqueeze(1))  # (N, 1)
    ranks = (logs > own).sum(-1) + 1
    return [
        Reading(place.entropy, place.top, id, logprob, rank)
        for place, id, logprob, rank in zip(
            places(logits, top), ids, own.squeeze(1).tolist(), ranks.tolist(), strict=True
        )
    ]


def _entropy(logs: Tensor) -> Tensor:
    """In bits, (N,), from log-probabilities (N, V); what is impossible counts nothing."""
    return -(logs.exp() * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(-1) / math.log(2)

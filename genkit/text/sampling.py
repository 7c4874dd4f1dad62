"""From logits to a token: pure functions on (B, V), with the meanings of `transformers`.

`process` applies them in this order: repetition, frequency and presence penalty,
temperature, top-k, top-p, min-p. A dropped token's logit is -inf.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genkit.text.config import GenerationConfig


def process(
    logits: Tensor, config: GenerationConfig, *, seen: Tensor | None = None, counts: Tensor | None = None
) -> Tensor:
    """Logits whose softmax is the distribution to draw from; temperature 0 leaves truncation out.

    Args:
        logits: (B, V) in fp32.
        seen: (B, V) bool, tokens of the prompt or generated; needed by the repetition penalty.
        counts: (B, V), how often each token was generated; needed by the other two penalties.
    """
    if config.repetition_penalty != 1 and seen is not None:
        logits = repetition_penalty(logits, seen, config.repetition_penalty)
    if config.frequency_penalty and counts is not None:
        logits = frequency_penalty(logits, counts, config.frequency_penalty)
    if config.presence_penalty and counts is not None:
        logits = presence_penalty(logits, counts, config.presence_penalty)
    if config.temperature == 0:
        return logits
    if config.temperature != 1:
        logits = temperature(logits, config.temperature)
    if config.top_k:
        logits = top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = top_p(logits, config.top_p)
    if config.min_p:
        logits = min_p(logits, config.min_p)
    return logits


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of `seen` tokens by `penalty`, multiply negative ones (Keskar et al. 2019)."""
    return logits.where(~seen, torch.where(logits > 0, logits / penalty, logits * penalty))


def frequency_penalty(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` for each time that a token was generated."""
    return logits - penalty * counts


def presence_penalty(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` once if a token was generated at all."""
    return logits - penalty * (counts > 0)


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divide by `value` > 0; the likeliest token is moved to 0 first, so that nothing overflows."""
    return (logits - logits.amax(-1, keepdim=True)) / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens, and what ties with the last of them."""
    if k >= logits.shape[-1]:
        return logits
    last = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < last, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities sum to p or more (Holtzman et al. 2020)."""
    probabilities = logits.softmax(-1)
    ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # mass of the likelier tokens
    dropped = (before >= p).scatter(-1, order, before >= p)
    dropped.scatter_(-1, order[:, :1], False)
    return logits.masked_fill(dropped, -math.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens below p times the likeliest one's probability (Nguyen et al. 2024)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def sample(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution.

    A row's token depends on its own logits and its own number alone, whatever
    the batch and the device.

    Args:
        logits: (B, V).
        uniforms: (B,) in [0, 1).

    Returns:
        (B,) int64.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    cumulative = logits.to(wide).softmax(-1).cumsum(-1)  # (B, V)
    total = cumulative[:, -1:]
    below = total.nextafter(torch.zeros_like(total))  # so that the token found has a positive probability
    threshold = torch.minimum(uniforms.to(logits.device, wide).unsqueeze(1) * total, below)
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)

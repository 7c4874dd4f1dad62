"""From logits to a token: pure functions on (B, V), with the meanings of `transformers`.

`process` applies them in this order: `penalise` (repetition, frequency and presence
penalty, no-repeat-ngram, forbidden tokens, logit bias, min-new-tokens), temperature,
`truncate` (top-k, top-p, min-p, typical-p). A dropped token's logit is -inf.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genkit.text.config import GenerationConfig

Bias = Sequence[tuple[Sequence[int], float]]


@dataclass(frozen=True)
class Past:
    """What a row holds: the token ids of its prompt, and those generated."""

    prompt: Sequence[int]
    text: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.text]


@dataclass(frozen=True)
class Rules:
    """What rows with the same settings obey.

    Attributes:
        bias: pairs of a token sequence and what is added to the logit of its last token.
        forbidden: the tokens that may not follow these tokens.
        eos_id: the end-of-text token, which `min_new_tokens` keeps back, as it does `ends`.
        ends: further tokens that end a text.
        forced: the tokens one of which must be the text's i-th; none for any.
    """

    config: GenerationConfig
    bias: Bias = ()
    forbidden: Callable[[Sequence[int]], Collection[int]] | None = None
    eos_id: int | None = None
    ends: Collection[int] = ()
    forced: Callable[[int], Collection[int]] | None = None

    @functools.cached_property
    def endings(self) -> frozenset[int]:
        """All tokens that end a text."""
        return frozenset(self.ends) | ({self.eos_id} if self.eos_id is not None else set())


def process(logits: Tensor, rules: Rules, pasts: Sequence[Past]) -> Tensor:
    """Logits (B, V) in fp32 whose softmax is the distribution to draw from; temperature 0 leaves truncation out."""
    logits, config = penalise(logits, rules, pasts), rules.config
    if config.temperature == 0:
        return logits
    if config.temperature != 1:
        logits = temperature(logits, config.temperature)
    return truncate(logits, config)


def penalise(logits: Tensor, rules: Rules, pasts: Sequence[Past]) -> Tensor:
    """What depends on the tokens so far, of one `Past` a row; beam search needs no more than this."""
    config = rules.config
    if config.repetition_penalty != 1:
        seen = count([past.tokens for past in pasts], logits) > 0
        logits = repetition_penalty(logits, seen, config.repetition_penalty)
    if config.frequency_penalty or config.presence_penalty:
        counts = count([past.text for past in pasts], logits)
        logits = frequency_penalty(logits, counts, config.frequency_penalty)
        logits = presence_penalty(logits, counts, config.presence_penalty)
    if config.no_repeat_ngram_size:
        logits = forbid(logits, [repeats(past.tokens, config.no_repeat_ngram_size) for past in pasts])
    if rules.forbidden is not None:
        logits = forbid(logits, [rules.forbidden(past.tokens) for past in pasts])
    if rules.bias:
        logits = sequence_bias(logits, [past.tokens for past in pasts], rules.bias)
    if config.min_new_tokens and rules.endings:
        logits = forbid(logits, [rules.endings if len(past.text) < config.min_new_tokens else () for past in pasts])
    if rules.forced is not None:
        logits = force(logits, [rules.forced(len(past.text)) for past in pasts])
    return logits


def truncate(logits: Tensor, config: GenerationConfig) -> Tensor:
    """Drop unlikely tokens, by every rule that is not off."""
    if config.top_k:
        logits = top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = top_p(logits, config.top_p)
    if config.min_p:
        logits = min_p(logits, config.min_p)
    if config.typical_p < 1:
        logits = typical_p(logits, config.typical_p)
    return logits


def count(rows: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """(B, V) in the logits' dtype, how often each token is in each row."""
    held = {(row, token): times for row, tokens in enumerate(rows) for token, times in Counter(tokens).items()}
    return _put(torch.zeros_like(logits), held)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of `seen` tokens by `penalty`, multiply negative ones (Keskar et al. 2019)."""
    return logits.where(~seen, torch.where(logits > 0, logits / penalty, logits * penalty))


def frequency_penalty(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` for each time that a token was generated."""
    return logits - penalty * counts


def presence_penalty(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` once if a token was generated at all."""
    return logits - penalty * (counts > 0)


def repeats(tokens: Sequence[int], n: int) -> set[int]:
    """What would end a run of `n` tokens that `tokens` holds already (Paulus et al. 2018)."""
    begun = list(tokens[len(tokens) - n + 1 :])
    starts = range(len(tokens) - n + 1)
    return {tokens[i + n - 1] for i in starts if list(tokens[i : i + n - 1]) == begun}


def forbid(logits: Tensor, tokens: Sequence[Collection[int]]) -> Tensor:
    """Drop each row's own `tokens`."""
    return _put(logits, {(row, token): -math.inf for row, own in enumerate(tokens) for token in own})


def force(logits: Tensor, tokens: Sequence[Collection[int]]) -> Tensor:
    """Leave rows that have `tokens` no others, each with the logit 0."""
    rows = torch.tensor([bool(own) for own in tokens], device=logits.device)
    wanted = {(row, token): 0.0 for row, own in enumerate(tokens) for token in own}
    return _put(logits.masked_fill(rows.unsqueeze(1), -math.inf), wanted)


def sequence_bias(logits: Tensor, rows: Sequence[Sequence[int]], bias: Bias) -> Tensor:
    """Add to the logit of a sequence's last token where a row ends with the tokens before it."""
    added: dict[tuple[int, int], float] = {}
    for (*before, last), value in bias:
        for row, tokens in enumerate(rows):
            if list(tokens[len(tokens) - len(before) :]) == before:
                added[row, last] = added.get((row, last), 0.0) + value
    return logits + _put(torch.zeros_like(logits), added)


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


def typical_p(logits: Tensor, p: float) -> Tensor:
    """Keep what surprises about as much as expected (Meister et al. 2022).

    They are the fewest tokens whose surprise, -log probability, is nearest to its
    mean and whose probabilities sum to p or more, and what ties with the last of them.
    """
    surprise = -logits.log_softmax(-1)
    probabilities = (-surprise).exp()
    mean = (surprise * probabilities).nansum(-1, keepdim=True)  # inf * 0 of a dropped token counts as 0
    ordered, order = (surprise - mean).abs().sort(-1)
    enough = (probabilities.gather(-1, order).cumsum(-1) < p).sum(-1, keepdim=True)
    last = ordered.gather(-1, enough.clamp(max=logits.shape[-1] - 1))
    return logits.masked_fill((surprise - mean).abs() > last, -math.inf)


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


def likeliest(logprobs: Tensor, k: int) -> list[tuple[tuple[int, float], ...]]:
    """Each row's `k` likeliest tokens with their log-probabilities (B, V), best first."""
    best = logprobs.topk(min(k, logprobs.shape[-1]))
    return [tuple(zip(*row, strict=True)) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def _put(table: Tensor, values: Mapping[tuple[int, int], float]) -> Tensor:
    """`table` with other values at some (row, token)."""
    if not values:
        return table
    rows, tokens = torch.tensor(list(values), device=table.device).unbind(1)
    return table.index_put((rows, tokens), torch.tensor(list(values.values()), device=table.device, dtype=table.dtype))

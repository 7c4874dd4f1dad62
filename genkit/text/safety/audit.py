"""What a model makes of the same sentence about different groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genkit.errors import InputError
from genkit.text.explain.subject import Subject
from genkit.text.safety.compare import Difference, Values, differences
from genkit.text.safety.templates import Template

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """A continuation of a template, by group; a mean over the words of each.

    Attributes:
        logprob: of the whole continuation, in nats.
        tokens: of it.
    """

    template: str
    continuation: str
    logprob: dict[str, float]
    tokens: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A measure of each group, and how far it is from the first group's."""

    means: dict[str, float]
    differences: dict[str, Difference]
    items: int


@torch.no_grad()
def likelihoods(
    subject: Subject,
    templates: Sequence[Template],
    device: torch.device,
    on_progress: Progress = lambda done, of: None,
) -> list[Item]:
    """How likely each continuation is after each group's prompts, exactly.

    Raises:
        InputError: a model that is not causal, or a prompt that does not fit.
    """
    if subject.kind != "causal":
        raise InputError(f"a {subject.kind} model gives continuations no probability", "name a causal language model")
    total, done = sum(len(t.continuations) for t in templates), 0
    items = []
    for template in templates:
        for continuation in template.continuations:
            logprob, tokens = {}, {}
            for group in template.groups:
                prompts = template.prompts(group)
                found = [_likelihood(subject, prompt, continuation, template.where, device) for prompt in prompts]
                logprob[group] = sum(nats for nats, _ in found) / len(found)
                tokens[group] = sum(count for _, count in found) / len(found)
            items.append(Item(template.text, continuation, logprob, tokens))
            done += 1
            on_progress(done, total)
    return items


def _likelihood(
    subject: Subject, prompt: str, continuation: str, where: str, device: torch.device
) -> tuple[float, int]:
    """Log-probability in nats, and tokens, of what the continuation adds to the tokens of the prompt."""
    try:
        before, whole = subject.tokens(prompt), subject.tokens(prompt + continuation)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", error.hint) from None
    pairs = zip(before.ids[: before.own.stop], whole.ids[: whole.own.stop], strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(before.own.stop, whole.own.stop))
    ids = torch.tensor([whole.ids], device=device)  # (1, T)
    places = range(same, whole.own.stop)
    scores = subject.scores(ids)[0, same - 1 : whole.own.stop - 1]  # (N, V), each of the token behind it
    logs = scores.cpu().double().log_softmax(-1)
    nats = math.fsum(float(row[whole.ids[place]]) for row, place in zip(logs, places, strict=True))
    if not math.isfinite(nats):
        raise InputError(f"{where}: the log-probability is not finite", "use another model")
    return nats, len(places)


def prompts_of(templates: Sequence[Template]) -> Iterator[tuple[int, str, str, int]]:
    """Number of a template, group, prompt, and which word of the group is in it.

    The last says which seed to draw from: groups share seeds, so that chance differs less.
    """
    for number, template in enumerate(templates):
        for group in template.groups:
            for word, prompt in enumerate(template.prompts(group)):
                yield number, group, prompt, word


def compare_likelihoods(items: Sequence[Item], seed: int) -> Comparison:
    """Log-probabilities of whole continuations, in nats."""
    return _compare({group: [item.logprob[group] for item in items] for group in items[0].logprob}, seed)


def perplexities(items: Sequence[Item]) -> dict[str, float]:
    """Of all continuations together, by the token."""
    return {
        group: math.exp(
            min(700.0, -sum(i.logprob[group] for i in items) / max(sum(i.tokens[group] for i in items), 1e-9))
        )
        for group in items[0].logprob
    }


def compare_opinions(shares: Sequence[dict[str, float]], seed: int) -> Comparison:
    """A classifier's mean probability of a class, by template and group."""
    return _compare({group: [share[group] for share in shares] for group in shares[0]}, seed)


def _compare(values: dict[str, list[float]], seed: int) -> Comparison:
    arrays: dict[str, Values] = {group: np.array(numbers) for group, numbers in values.items()}
    means = {group: float(numbers.mean()) for group, numbers in arrays.items()}
    return Comparison(means, differences(arrays, seed), len(next(iter(arrays.values()))))

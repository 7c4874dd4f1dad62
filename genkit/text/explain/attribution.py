"""Which tokens a score rests on: integrated gradients (Sundararajan et al., arXiv 1703.01365)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genkit.errors import ResourceError
from genkit.text.explain.look import Target
from genkit.text.explain.subject import Subject

_ROWS = 16  # points of the way at a time


@dataclass(frozen=True)
class Attribution:
    """How much each token speaks for a score.

    Attributes:
        values: of each token of `Target.own`; below 0 it speaks against it. They sum to
            `difference`, up to `error`.
        difference: of the target's logit, with the text and without.
    """

    values: list[float]
    difference: float
    error: float


def attribute(subject: Subject, target: Target, steps: int, device: torch.device) -> Attribution:
    """Integrate the gradient of the target's logit along a straight line of embeddings.

    The line begins where every token of the text is `subject.nothing`, and ends at the text.

    Args:
        steps: points on it, by Gauss and Legendre.

    Raises:
        ResourceError: captum is not installed.
    """
    integrated = _captum().LayerIntegratedGradients(_scorer(subject, target), subject.embedding)
    ids = torch.tensor([target.ids], device=device)  # (1, T)
    empty = ids.clone()
    empty[0, target.own.start : target.own.stop] = subject.nothing
    found: Tensor = integrated.attribute(ids, empty, n_steps=steps, internal_batch_size=_ROWS)  # (1, T, C)
    score = _scorer(subject, target)
    with torch.no_grad():
        vectors = subject.embedding(empty)
        difference = score(ids).item()
        with _embedded(subject.embedding, vectors):  # the ids still say how long the text is
            difference -= score(ids).item()
    values = found.detach().double().sum(-1)[0]  # (T,)
    own = values[target.own.start : target.own.stop]
    return Attribution(own.tolist(), difference, values.sum().item() - difference)


def _scorer(subject: Subject, target: Target) -> Any:
    """A function from ids (B, T) to the target's logits (B,)."""

    def score(ids: Tensor) -> Tensor:
        logits = subject.scores(ids)
        return logits[:, target.id] if target.place is None else logits[:, target.place, target.id]

    return score


@contextmanager
def _embedded(layer: nn.Module, vectors: Tensor) -> Iterator[None]:
    """Have an embedding give `vectors`, whatever it is asked."""
    hook = layer.register_forward_hook(lambda module, given, made: vectors)
    try:
        yield
    finally:
        hook.remove()


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise ResourceError("attributions need the captum package", "pip install 'genkit-cli[explain]'") from error
    return captum.attr

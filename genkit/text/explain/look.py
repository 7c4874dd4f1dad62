"""Reads a text with a model, and finds what can be explained of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genkit.config import suggest
from genkit.errors import UsageError
from genkit.text.explain.subject import Subject, Tokens
from genkit.text.explain.surprise import Candidate, Place, places, readings

_MASKED_ROWS = 16  # texts with one gap each, at a time


@dataclass(frozen=True)
class Look:
    """What a model makes of a text.

    Attributes:
        places: of each of the text's own tokens; a `Reading`, but of a gap and for a
            classifier only a `Place`.
        next: what is expected behind the text; None unless the model is causal.
        labels: of a classifier, the likeliest first.
    """

    tokens: Tokens
    places: list[Place]
    next: Place | None = None
    labels: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Target:
    """What an attribution explains: a score at a place.

    Attributes:
        ids: the text that the model is given.
        own: the places in it that can speak for the score.
        place: where the score stands; None for a classifier, which has one for all.
        id: of the token or the label.
        name: what that reads as.
        position: which of the text's own tokens it is, from 0; None for what is not in the text.
    """

    ids: list[int]
    own: range
    place: int | None
    id: int
    name: str
    position: int | None


@torch.no_grad()
def look(subject: Subject, text: str, top: int, device: torch.device) -> Look:
    """Score every token of `text`.

    A causal model expects each token from those before it, a masked one from all others.

    Raises:
        InputError: the text is empty or does not fit the context.
    """
    tokens = subject.tokens(text)
    ids = torch.tensor([tokens.ids], device=device)  # (1, T)
    if subject.kind == "classifier":
        [verdict] = places(subject.scores(ids), len(subject.labels))
        return Look(tokens, [], labels=verdict.top)
    if subject.kind == "masked":
        return Look(tokens, _gap_by_gap(subject, tokens, ids, top))
    logits = subject.scores(ids)[0]  # (T, V)
    own = tokens.own
    found = readings(logits[own.start - 1 : own.stop - 1], tokens.ids[own.start : own.stop], top)
    return Look(tokens, [*found], next=places(logits[-1:], top)[0])


def _gap_by_gap(subject: Subject, tokens: Tokens, ids: torch.Tensor, top: int) -> list[Place]:
    """Each token in turn becomes a gap that the others fill (Salazar et al., arXiv 1910.14659)."""
    found: list[Place] = []
    for start in range(tokens.own.start, tokens.own.stop, _MASKED_ROWS):
        where = range(start, min(start + _MASKED_ROWS, tokens.own.stop))
        rows = ids.repeat(len(where), 1)  # (B, T)
        for row, place in enumerate(where):
            rows[row, place] = subject.mask or 0
        logits = subject.scores(rows)  # (B, T, V)
        here = torch.stack([logits[row, place] for row, place in enumerate(where)])  # (B, V)
        said = [tokens.ids[place] for place in where]
        open_ = places(here, top)
        found += [
            open_[row] if token == subject.mask else reading
            for row, (token, reading) in enumerate(zip(said, readings(here, said, top), strict=True))
        ]
    return found


def find_target(subject: Subject, seen: Look, target: str | None, position: int | None) -> Target:
    """What is to be explained: by default the likeliest label, fill of the first gap, or next token.

    Args:
        target: a token or a label instead of the likeliest.
        position: one of the text's own tokens instead, from 0.

    Raises:
        UsageError: no such position or label, or a masked model and no gap.
        InputError: the target has no token.
    """
    tokens, own = seen.tokens, seen.tokens.own
    if position is not None and (subject.kind == "classifier" or position >= len(own)):
        told = (
            "a classifier judges the whole text" if subject.kind == "classifier" else f"the text has {len(own)} tokens"
        )
        raise UsageError(f"--position {position}: {told}", "leave it out" if not seen.places else "they count from 0")
    if subject.kind == "classifier":
        id = seen.labels[0].id if target is None else _label(subject, target)
        return Target(tokens.ids, own, None, id, subject.labels[id], None)
    if subject.kind == "masked":
        return _filled(subject, seen, target, position)
    if position is None:
        likeliest = seen.next.top[0].id if seen.next else 0
        ids, place, default = tokens.ids, own.stop - 1, likeliest
    else:
        at = own.start + position
        ids, place, default = tokens.ids[:at], at - 1, tokens.ids[at]
    id = default if target is None else subject.first_token(target)
    return Target(ids, range(own.start, len(ids)), place, id, subject.name(id), position)


def _filled(subject: Subject, seen: Look, target: str | None, position: int | None) -> Target:
    tokens, own = seen.tokens, seen.tokens.own
    ids = list(tokens.ids)
    gaps = [place for place in own if ids[place] == subject.mask]
    if position is None and not gaps:
        mask = subject.name(subject.mask or 0)
        raise UsageError(
            "nothing is to be filled in that could be explained", f"put {mask} into the text, or --position"
        )
    place = gaps[0] if position is None else own.start + position
    default = seen.places[place - own.start].top[0].id if ids[place] == subject.mask else ids[place]
    ids[place] = subject.mask or 0
    id = default if target is None else subject.first_token(target)
    return Target(ids, own, place, id, subject.name(id), place - own.start)


def _label(subject: Subject, name: str) -> int:
    if name not in subject.labels:
        raise UsageError(f"--target {name!r} is no label of this model", suggest(name, subject.labels))
    return subject.labels.index(name)

"""What a text engine is: `generate(requests)` yields one `TokenEvent` a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from genkit.text.config import GenerationConfig


@dataclass
class TokenRequest:
    """Continue one prompt once.

    Attributes:
        prompt: token ids, at least one and fewer than the model's context.
        config: how tokens are drawn; `n` and `stop` are the caller's business.
        seed: 0 <= seed < 2**64; the row's draws depend on it and on nothing else.
        finished: set it to True to end this row early; no event follows.
    """

    prompt: list[int]
    config: GenerationConfig
    seed: int
    finished: bool = False


@dataclass(frozen=True)
class TokenEvent:
    """One new token.

    Attributes:
        index: position of its request.
        token: its id; the end-of-text token is reported too.
        logprob: the model's own log-probability of it, before penalties, temperature and truncation.
        done: None while the row goes on, "eos" after the end-of-text token, "length" after
            `max_new_tokens` or at the end of the context.
    """

    index: int
    token: int
    logprob: float
    done: str | None


class TextEngine(Protocol):
    """Continues many prompts at once; the events of different rows come interleaved."""

    def generate(self, requests: Sequence[TokenRequest]) -> Iterator[TokenEvent]: ...

"""What a text pipeline is asked, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genkit.errors import GenkitError
from genkit.text.config import GenerationConfig

if TYPE_CHECKING:
    from genkit.text.dialogue import ChatPrompt


@dataclass(frozen=True)
class TextJob:
    """Continue `prompt` `config.n` times, the i-th from seed + i. An empty prompt starts a new text.

    Attributes:
        prompt: text, or a conversation that waits for an answer.
        live: each token is wanted at once; else the engine may report a whole text at its end.
    """

    prompt: str | ChatPrompt
    config: GenerationConfig
    seed: int = 0
    live: bool = True


@dataclass(frozen=True)
class TextEvent:
    """A piece of a continuation.

    Attributes:
        job: which job it belongs to, from 0.
        index: which of its continuations.
        text: new text; may be empty when a token ends inside a character.
        finish: None while it goes on, else "stop" (a stop string), "eos", "length" (as many tokens
            as were asked for, or as the context holds where a text cannot go on), or "error".
        tokens: how many the continuation has so far.
        token: the id of the token behind it.
        logprob: its log-probability, and `top` the likeliest tokens with theirs, if
            `config.logprobs` asks for them.
        error: why the job was refused; its only event then.
    """

    job: int
    index: int
    text: str
    finish: str | None
    tokens: int
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: GenkitError | None = None

"""What a text engine is: `generate(requests)` yields one `TokenEvent` a token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from genkit.errors import GenkitError, InputError
from genkit.text.config import GenerationConfig, GPTConfig

KEYS_AND_VALUES = 2 << 30  # bytes that all rows may fill; a model's context may be longer than memory

Bias = tuple[tuple[tuple[int, ...], float], ...]


@dataclass
class TokenRequest:
    """Continue one prompt once.

    Attributes:
        prompt: token ids, at least one and fewer than the model's context; text only
            for a model that tokenizes itself, a foreign `.gguf`.
        config: how tokens are drawn; `n`, `stop` and `logit_bias` are the caller's business.
        seed: 0 <= seed < 2**64; the row's draws depend on it and on nothing else.
        rank: which of the best beams, from 0; those of one search come one after another.
        bias: pairs of a token sequence and what is added to the logit of its last token
            where the tokens before it match.
        live: each token is wanted at once; else the engine may keep them until the row ends.
        ends: tokens that end the text besides the model's own; with `stop` the caller's business.
        drawn: how many of the prompt's last tokens count as new ones, for penalties and for the
            two limits on new tokens: those of a text that goes on in a new request.
        finished: set it to True to end this row early; no event follows.
    """

    prompt: list[int] | str
    config: GenerationConfig
    seed: int
    rank: int = 0
    bias: Bias = ()
    live: bool = True
    ends: frozenset[int] = frozenset()
    drawn: int = 0
    finished: bool = False


@dataclass(slots=True)  # not frozen: that costs microseconds a token
class TokenEvent:
    """One new token.

    Attributes:
        index: position of its request.
        token: its id; the end-of-text token is reported too.
        done: None while the row goes on, "eos" after the end-of-text token, "length" after
            `max_new_tokens` or at the end of the context, "error" with `error`.
        logprob: the model's own log-probability of it, before penalties, temperature and
            truncation; None unless `config.logprobs` asks for it.
        top: the `config.logprobs` likeliest tokens with theirs, best first.
        text: what it reads as, from a model that tokenizes itself.
        error: why the row could not go on; it is then the row's only or last event, and
            `done` is "error".
    """

    index: int
    token: int
    done: str | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    text: str | None = None
    error: GenkitError | None = None


class TextEngine(Protocol):
    """Continues many prompts at once; the events of different rows come interleaved.

    `generate` takes requests as it has room for them, so they may come from an endless
    source; a row that is done makes room for the next. While rows are on their way it asks
    the source again, even one that had no more.

    Attributes:
        context: how many tokens prompt and continuation may have together.
    """

    context: int

    def generate(self, requests: Iterable[TokenRequest]) -> Iterator[TokenEvent]: ...

    def close(self) -> None: ...


def check_length(tokens: int, context: int) -> None:
    """Raise InputError unless a prompt of so many tokens leaves room in the context."""
    if not tokens:
        raise InputError("the prompt has no tokens", "give at least one, for instance the end-of-text token")
    if tokens >= context:
        raise too_long(tokens, context)


def too_long(tokens: int, context: int) -> InputError:
    """What to say of a prompt that fills the context."""
    return InputError(
        f"the prompt has {tokens:,} tokens and the model's context {context:,}",
        f"shorten it to {context - 1:,} tokens or fewer",
    )


def capacity(shape: GPTConfig, parallel: int) -> tuple[int, int]:
    """Rows at once, and tokens for each, whose keys and values in fp32 fit into `KEYS_AND_VALUES`: whole rows first."""
    token = 2 * 4 * shape.n_layer * shape.n_kv_head * shape.head_dim  # bytes
    rows = max(1, min(parallel, KEYS_AND_VALUES // (token * shape.block_size)))
    return rows, min(shape.block_size, KEYS_AND_VALUES // (token * rows))


def lacks(engine: str, config: GenerationConfig, bias: Bias = ()) -> tuple[str, ...]:
    """The flags of `config` that `engine` cannot do.

    llama.cpp searches no beams, knows no rule about text, counts the prompt into the two
    penalties that are about generated tokens, and adds a bias before the repetition
    penalty; a grammar is its alone. The native decoder has the knobs that look at single
    tokens.
    """
    by_text = {
        "--num-beams": config.num_beams > 1,
        "--no-repeat-ngram-size": config.no_repeat_ngram_size > 0,
        "--bad-word": bool(config.bad_word),
    }
    by_grammar = {
        "--json-schema": config.json_schema is not None,
        "--regex": config.regex is not None,
        "--grammar": config.grammar is not None,
    }
    several = any(len(tokens) > 1 for tokens, _ in bias)
    if engine == "llamacpp":
        unordered = config.repetition_penalty != 1 and any(math.isfinite(value) for _, value in bias)
        asked = by_text | {
            "--min-new-tokens": config.min_new_tokens > 0,
            "--frequency-penalty": config.frequency_penalty != 0,
            "--presence-penalty": config.presence_penalty != 0,
            "--logit-bias": several or unordered,
        }
    elif engine == "native":
        asked = by_text | by_grammar | {"--logit-bias": several}
    else:
        asked = by_grammar
    return tuple(flag for flag, wanted in asked.items() if wanted)


def listed(flags: Sequence[str]) -> str:
    """`--a`, `--a and --b`, `--a, --b and --c`."""
    return " and ".join(filter(None, (", ".join(flags[:-1]), flags[-1])))

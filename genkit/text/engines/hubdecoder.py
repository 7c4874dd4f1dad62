"""One more token for rows of a `transformers` model: causal, or the decoder of an encoder-decoder."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkit.runtime.manager import Runtime


@dataclass
class State:
    """What a model knows of rows of equal length.

    Attributes:
        ids: (B, T) of the causal text, or of the decoder's.
        cache: the keys and values of `ids`; None where the model keeps none, and reads all again.
        encoded: what the encoder made of the source, for one row.
    """

    ids: Tensor
    cache: Any = None
    encoded: Any = None

    def copy(self) -> State:
        """A state that goes on by itself; the encoder's part is shared, as nothing writes to it."""
        return State(self.ids, copy.deepcopy(self.cache), self.encoded)

    def select(self, rows: Tensor) -> None:
        """Make `rows` the rows, in that order; one may be taken several times."""
        self.ids = self.ids[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)


class Reader:
    """A model and how it reads.

    Args:
        model: of `transformers`, on the runtime's device.
        start: the token that a decoder begins with; None for a causal model.
    """

    def __init__(self, model: Any, runtime: Runtime, start: int | None) -> None:
        self.model, self.runtime, self.start = model, runtime, start
        takes = inspect.signature(model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @torch.inference_mode()
    def begin(self, prompt: Sequence[int]) -> tuple[State, Tensor]:
        """A prompt, or a source, read; and the logits (1, V) of what comes next."""
        ids = torch.tensor([list(prompt)], device=self.runtime.device)  # (1, T)
        if self.start is None:
            state = State(ids)
        else:
            encoder = self.model.get_encoder()
            encoded = encoder(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True)
            state = State(ids.new_full((1, 1), self.start), encoded=encoded)
        return state, self._forward(state, state.ids)

    @torch.inference_mode()
    def step(self, state: State, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; the logits (B, V) of what comes next."""
        new = torch.tensor(tokens, device=self.runtime.device).unsqueeze(1)  # (B, 1)
        state.ids = torch.cat([state.ids, new], dim=1)
        return self._forward(state, new if state.cache is not None else state.ids)

    def _forward(self, state: State, ids: Tensor) -> Tensor:
        given: dict[str, Any] = {"past_key_values": state.cache, "use_cache": True, "return_dict": True, **self._last}
        if self.start is None:
            told = self.model(input_ids=ids, attention_mask=torch.ones_like(state.ids), **given)
        else:
            hidden = state.encoded.last_hidden_state.expand(len(ids), -1, -1)  # (B, S, C)
            told = self.model(
                encoder_outputs=type(state.encoded)(last_hidden_state=hidden),
                attention_mask=torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device),
                decoder_input_ids=ids,
                **given,
            )
        state.cache = getattr(told, "past_key_values", None)
        logits: Tensor = told.logits[:, -1].float()
        return logits


class RowDecoder:
    """Rows that are read one by one, so that each has the bits it would have alone.

    Args:
        token_bytes: memory of a token's keys and values.

    Attributes:
        logits: (rows, V) fp32, of each row's next token.
    """

    def __init__(self, reader: Reader, rows: int, vocab_size: int, token_bytes: int) -> None:
        self._reader, self._token_bytes = reader, token_bytes
        self._states: list[State | None] = [None] * rows
        self.logits = torch.zeros(rows, vocab_size, device=reader.runtime.device)
        self._prefix: tuple[tuple[int, ...], State, Tensor] | None = None

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Put a prompt into `row`; the last one is remembered, and read once."""
        prompt = tuple(prompt)
        if self._prefix is None or self._prefix[0] != prompt:
            self._prefix = prompt, *self._reader.begin(prompt)
        self._states[row] = self._prefix[1].copy()
        self.logits[row] = self._prefix[2][0]

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Append a token to each of the first rows; sets their `logits`."""
        for row, token in enumerate(tokens):
            state = self._states[row]
            assert state is not None
            self.logits[row] = self._reader.step(state, [token])[0]

    def move(self, source: int, target: int) -> None:
        """Put a row into another's place."""
        self._states[target], self._states[source] = self._states[source], None

    def bytes(self, rows: int, tokens: int) -> int:
        """Memory of the caches for so many rows of so many tokens, about."""
        return rows * tokens * self._token_bytes


class BeamDecoder:
    """Rows of one prompt that go on together: the beams of a search."""

    def __init__(self, reader: Reader, width: int) -> None:
        self._reader, self._width = reader, width
        self._state: State | None = None
        self.logits = torch.empty(0)

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Read the prompt for all rows, with the first."""
        if row == 0:
            self._state, logits = self._reader.begin(prompt)
            self._state.select(torch.zeros(self._width, dtype=torch.int64, device=logits.device))
            self.logits = logits.expand(self._width, -1)

    def select(self, rows: Sequence[int], tokens: int) -> None:
        """Make `rows` the rows, in that order."""
        assert self._state is not None
        self._state.select(torch.tensor(rows, device=self.logits.device))

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Append a token to each row; sets their `logits`."""
        assert self._state is not None
        self.logits = self._reader.step(self._state, tokens)

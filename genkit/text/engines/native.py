"""The native engine: text on a CPU in fp32 or int8, straight from the safetensors file.

A row has the bits that it has alone, in whatever company and on however many threads. In
fp32 it draws the tokens that the torch engine draws from the same seed, but for logits
that differ in their last places.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from typing import Any

from genkit.errors import InputError, ResourceError
from genkit.runtime.device import cpu_count, idle_cpus
from genkit.text.config import GPTConfig
from genkit.text.engines import TokenEvent, TokenRequest, capacity, check_length
from genkit.text.native.library import MOST, NONE_LEFT, NOT_DRAWN, NOT_FINITE, Drawn, Settings, library
from genkit.text.native.weights import Weights

# steps that rows nobody watches take by themselves: while others may wait for a place, and while none do
_FEW, _MANY = 8, 16


class NativeEngine:
    """Decodes up to `MOST` rows at once; a row that is done makes room for the next request.

    Attributes:
        context: how many tokens prompt and continuation may have together.

    Raises:
        ResourceError: the library is not built, or memory is short.
    """

    def __init__(self, weights: Weights, *, parallel: int = 1, threads: int | None = None) -> None:
        self._weights, self._library = weights, library()
        self._rows, self.context = capacity(weights.config, min(parallel, MOST))
        self._threads = threads or _threads(self._rows)
        self._idle: list[_Decoder] = []
        self._closed = False

    def close(self) -> None:
        """Free the memory of rows; those of a text that is still being read go with it."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def generate(self, requests: Iterable[TokenRequest]) -> Iterator[TokenEvent]:
        """Yield tokens as they are drawn; a row's last event says why it is `done`.

        A row ends with an error where its prompt is empty, has ids beyond the vocabulary
        or fills the context, and where its rules leave no token to draw.

        Raises:
            InputError: the model's logits are not finite.
            ResourceError: memory is short.
        """
        decoder = self._idle.pop() if self._idle else _Decoder(self._weights, self._rows, self.context, self._threads)
        pending = enumerate(requests)
        free = list(reversed(range(self._rows)))
        rows: list[_Row] = []
        try:
            while True:
                while free and (entry := next(pending, None)):
                    index, request = entry
                    if request.finished:
                        continue
                    try:
                        row = self._begun(index, request)
                    except InputError as error:
                        yield TokenEvent(index, -1, "error", error=error)
                        continue
                    row.place = free.pop()
                    decoder.begin(row)
                    rows.append(row)
                if not rows:
                    return
                steps = (
                    1
                    if any(row.watched for row in rows)
                    else _MANY
                    if free
                    else min(_FEW, min(row.left for row in rows))
                )
                for row, token, told in decoder.step(rows) if steps == 1 else decoder.run(rows, steps):
                    if not row.request.finished:
                        yield row.event(token, told)
                free += [row.place for row in rows if row.over]
                rows = [row for row in rows if not row.over]
        finally:
            if self._closed:
                decoder.close()
            else:
                self._idle.append(decoder)

    def _begun(self, index: int, request: TokenRequest) -> _Row:
        prompt, vocabulary = request.prompt, self._weights.config.vocab_size
        if isinstance(prompt, str):
            raise InputError("the native engine reads token ids, not text")
        check_length(len(prompt), self.context)
        if wrong := [token for token in prompt if not 0 <= token < vocabulary]:
            raise InputError(f"token {wrong[0]} of the prompt is not in the model's vocabulary of {vocabulary:,}")
        return _Row(index, request, prompt, self.context, self._weights.config)


def _threads(rows: int) -> int:
    """A thread a core; of a single row those that are idle, as its threads wait for one another all the time."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return min(int(told), MOST)
    return idle_cpus() if rows == 1 else cpu_count()


class _Row:
    """A request on its way."""

    place = -1

    def __init__(self, index: int, request: TokenRequest, prompt: list[int], context: int, shape: GPTConfig) -> None:
        self.index, self.request, self.todo, self.held = index, request, list(prompt), 0
        self.written, self._eos = request.drawn, shape.eos_id
        self._limit = min(request.config.max_new_tokens, context - len(prompt) + request.drawn)
        self._done: str | None = None
        config = request.config
        self._told = None if config.logprobs is None else min(config.logprobs, shape.vocab_size)
        ends = [] if shape.eos_id is None else [shape.eos_id]
        self.arrays = (
            (ctypes.c_int * len(request.bias))(*(tokens[-1] for tokens, _ in request.bias)),
            (ctypes.c_int * len(ends))(*ends),
            (ctypes.c_float * len(request.bias))(*(value for _, value in request.bias)),
        )
        self.settings = Settings(
            request.seed,
            *self.arrays,
            config.temperature,
            config.top_p,
            config.min_p,
            config.typical_p,
            config.repetition_penalty,
            config.frequency_penalty,
            config.presence_penalty,
            config.top_k,
            config.min_new_tokens,
            -1 if self._told is None else self._told,
            len(request.bias),
            len(ends),
        )

    @property
    def over(self) -> bool:
        return self._done is not None or self.request.finished

    @property
    def watched(self) -> bool:
        """Has to come back after a single step."""
        return len(self.todo) > 1 or self._told is not None or self.request.live

    @property
    def left(self) -> int:
        """Tokens to write."""
        return self._limit - self.written

    def event(self, token: int, told: Any) -> TokenEvent:
        """A drawn token, and whether it is the last; it is appended at the next step."""
        if token == NOT_FINITE:
            raise InputError("the model's logits are not finite", "its weights are damaged; use another model")
        if token == NONE_LEFT:
            self._done = "error"
            hint = "loosen --bad-word, --logit-bias or the like"
            return TokenEvent(self.index, -1, "error", error=InputError("the rules leave no token to go on with", hint))
        self.todo, self.written = [token], self.written + 1
        self._done = "eos" if token == self._eos else "length" if self.written >= self._limit else None
        if (k := self._told) is None:
            return TokenEvent(self.index, token, self._done)
        top = tuple(zip(told.top_ids[:k], told.top[:k], strict=True))
        return TokenEvent(self.index, token, self._done, told.logprob, top)


class _Decoder:
    """The C object, and the arrays that it is called with."""

    def __init__(self, weights: Weights, rows: int, slots: int, threads: int) -> None:
        self._weights, self._library = weights, library()
        tensors = (ctypes.c_void_p * len(weights.tensors))(*weights.tensors)
        self._model = self._library.gk_open(ctypes.byref(weights.shape), tensors, weights.rounded, rows, slots, threads)
        if not self._model:
            raise ResourceError("memory is short", "lower -n or --parallel")
        self._tokens, self._places, self._positions, self._wanted = ((ctypes.c_int * MOST)() for _ in range(4))
        self._drawn = (Drawn * MOST)()
        self._limits, self._written = (ctypes.c_int * MOST)(), (ctypes.c_int * (MOST * _MANY))()

    def close(self) -> None:
        self._library.gk_close(self._model)

    def begin(self, row: _Row) -> None:
        """A new text at `row.place`."""
        count = len(row.todo)
        self._library.gk_begin(
            self._model, row.place, row.settings, (ctypes.c_int * count)(*row.todo), count, row.request.drawn
        )

    def step(self, rows: list[_Row]) -> Iterator[tuple[_Row, int, Any]]:
        """Append what each row has to do, and draw its next token; rows that go on come before new ones."""
        count = 0
        drawing: list[tuple[int, _Row]] = []
        for row in sorted(rows, key=lambda row: len(row.todo) > 1):
            for i, token in enumerate(row.todo):
                last = i == len(row.todo) - 1
                self._tokens[count], self._places[count], self._positions[count] = token, row.place, row.held
                self._wanted[count] = last
                row.held += 1
                if last:
                    drawing.append((count, row))
                count += 1
                if count == MOST:
                    yield from self._step(count, drawing)
                    count, drawing = 0, []
        yield from self._step(count, drawing)

    def _step(self, count: int, drawing: list[tuple[int, _Row]]) -> Iterator[tuple[_Row, int, Any]]:
        if count:
            arrays = self._tokens, self._places, self._positions, self._wanted
            self._library.gk_step(self._model, count, *arrays, self._drawn)
            for i, row in drawing:
                yield row, self._drawn[i].token, self._drawn[i]

    def run(self, rows: list[_Row], steps: int) -> Iterator[tuple[_Row, int, None]]:
        """Let rows with one token to append write up to so many by themselves."""
        for i, row in enumerate(rows):
            self._tokens[i], self._places[i], self._positions[i] = row.todo[0], row.place, row.held
            self._limits[i] = row.left
        ctypes.memset(self._written, 0xFF, ctypes.sizeof(self._written))  # NOT_DRAWN everywhere
        arrays = self._tokens, self._places, self._positions
        self._library.gk_run(self._model, len(rows), *arrays, steps, self._limits, self._written)
        for i, row in enumerate(rows):
            for token in self._written[i * steps : (i + 1) * steps]:
                if token == NOT_DRAWN:
                    break
                row.held += 1
                yield row, token, None

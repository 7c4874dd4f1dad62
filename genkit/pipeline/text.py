"""Prompt in, text out."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genkit import library
from genkit.errors import GenkitError, InputError, ResourceError, UsageError
from genkit.files import read_json
from genkit.pipeline.base import Pipeline, guard
from genkit.pipeline.recommended import checked_settings
from genkit.pipeline.rows import Row, Rows
from genkit.pipeline.textjobs import TextEvent, TextJob
from genkit.text.config import GenerationConfig, GPTConfig, parse_bias

if TYPE_CHECKING:
    from genkit.runtime.device import Placement, Task
    from genkit.text.dialogue import ChatPrompt
    from genkit.text.engines import Bias, TextEngine, TokenRequest
    from genkit.text.native.weights import Weights
    from genkit.text.tokenizer import Tokenizer
    from genkit.text.writing import Decoder

__all__ = ["PARALLEL", "TextEvent", "TextJob", "TextPipeline"]

PARALLEL = 64  # continuations at once
_TAKE_OVER = ("torch", "llamacpp")  # what the usual engine cannot do
_CONTEXT = 8  # tokens of the prompt that the text is decoded behind


class _Work(NamedTuple):
    """A job on its way to an engine."""

    job: int
    engine: str
    requests: list[TokenRequest]
    slides: bool  # where the context is full


class TextPipeline(Pipeline):
    """Prompt in, text out.

    Attributes:
        tokenizer: None for a `.gguf` file, which tokenizes itself.
    """

    task: Task = "text"
    continues = True  # the text goes on with the prompt

    def _open(self) -> None:
        from genkit.text.tokenizer import Tokenizer

        self._engines: dict[str, Any] = {}  # TextEngine by name
        self._moved: set[str] = set()  # the engines that took over a request
        self._rooms: dict[str, float] = {}  # rows that the open engines have room for
        self.tokenizer: Tokenizer | None = None
        if self.path.suffix == library.GGUF and self.path.is_file():
            self._check_gguf()
            return
        self.tokenizer = Tokenizer.load(self.path)
        self._shape = GPTConfig.from_hf(read_json(self.path / library.CONFIG))
        if stored := library.quantization(self.path):
            self._prefer(stored.precision)
        if self.tokenizer.vocab_size > self._shape.vocab_size:
            raise InputError(
                f"{self.path}: the tokenizer has {self.tokenizer.vocab_size} tokens, the model {self._shape.vocab_size}"
            )
        if self.placement.engine == "native":
            self._map_weights()
        if self.placement.engine == "llamacpp":
            self._make_view()
        if self.placement.engine == "torch":
            self._engine("torch", PARALLEL)

    def _map_weights(self) -> None:
        """So that damaged weights are refused at once; llama.cpp takes over where the decoder does not load."""
        try:
            _ = self._weights
        except ResourceError as error:
            self._hand_over("llamacpp", error)

    def _make_view(self) -> None:
        """So that damaged weights are refused at once; torch takes over what llama.cpp cannot hold."""
        from genkit.text.gguf.vocabulary import Unsupported

        try:
            _ = self._view
        except Unsupported as error:
            self._hand_over("torch", error)

    def _hand_over(self, other: str, error: GenkitError) -> None:
        """To another engine, where the user left it open; else the error stands."""
        if self._asked_engine != "auto":
            raise error
        self.placement = self._place(other)
        self._note(f"done by {other}: {error.message}")

    def _check_gguf(self) -> None:
        from genkit.text.engines.trial import try_once
        from genkit.text.gguf.check import check_gguf

        check_gguf(self.path)
        if self._asked_precision != "auto":
            raise UsageError(
                f"--precision {self._asked_precision}: {self.path.name} has a precision of its own", "leave it out"
            )
        if self._asked_engine not in ("auto", "llamacpp"):
            raise UsageError(f"--engine {self._asked_engine} does not read {self.path.name}", "use --engine llamacpp")
        self.placement = self._place("llamacpp")
        try_once(self.path)

    @property
    def context(self) -> int:
        """How many tokens a prompt and its continuation may have together; not of a `.gguf` file.

        Of an encoder-decoder, each by itself.
        """
        return self._shape.block_size

    def defaults(self) -> dict[str, Any]:
        """The sampling settings that the model itself recommends, by the names of `GenerationConfig`.

        They are those of its `generation_config.json`; null and names that mean
        nothing here are left out.

        Raises:
            InputError: a value of another type, or out of range.
        """
        return checked_settings(*self._recommended())

    def _recommended(self) -> tuple[Path, dict[str, Any]]:
        """The file with the model's settings, and what it says."""
        path = self.path / library.GENERATION
        return path, read_json(path) if path.exists() else {}

    def complete(self, prompt: str, config: GenerationConfig | None = None, *, seed: int = 0) -> list[str]:
        """The continuations of `prompt`, whole; arguments and errors as `stream`."""
        config = config or GenerationConfig(**self.defaults())
        texts = [""] * config.n
        for event in self.stream(prompt, config, seed=seed, live=False):
            texts[event.index] += event.text
        return texts

    def stream(
        self,
        prompt: str | ChatPrompt,
        config: GenerationConfig | None = None,
        *,
        seed: int = 0,
        parallel: int | None = None,
        live: bool = True,
    ) -> Iterator[TextEvent]:
        """Continue `prompt` `config.n` times, the i-th from seed + i; the pieces come interleaved.

        Args:
            parallel: continuations at a time; see `run`.
            live: see `TextJob`.

        Raises:
            UsageError: settings that no engine, or not the chosen one, can do.
            InputError: the prompt does not fit the context.
            ResourceError: the memory does not suffice.
        """
        config = config or GenerationConfig(**self.defaults())
        for event in self.run([TextJob(prompt, config, seed, live)], parallel=parallel, most=config.n):
            if event.error:
                raise event.error
            yield event

    def run(self, jobs: Iterable[TextJob], *, parallel: int | None = None, most: int = PARALLEL) -> Iterator[TextEvent]:
        """Do many jobs; `jobs` is read as there is room.

        A job that is refused gives an event with its `error`; the others go on.

        Args:
            parallel: continuations at a time; default: as many as leave each the text that it has
                alone, on llama.cpp but for rare roundings: 64 there in fp32, 16 in int8 and 1 in
                any other precision.
            most: how many continuations there are at most.

        Raises:
            ResourceError: the memory does not suffice.
        """
        refused: deque[TextEvent] = deque()
        for engine, works in groupby(self._prepared(jobs, refused), key=lambda work: work.engine):
            room = parallel or (self._at_once if engine == "llamacpp" else PARALLEL)
            yield from self._run_on(engine, works, min(most, room), refused)
        yield from refused

    def placed(self, config: GenerationConfig) -> Placement:
        """Where and how a job with `config` runs.

        Raises:
            UsageError: no engine, or not the chosen one, can do it.
        """
        return self._place(self._engine_for(config, self._bias(config)))

    def piece(self, token: int) -> str:
        """What one token reads as by itself; from a `.gguf`, one that an event named."""
        return self.tokenizer.piece(token) if self.tokenizer else self._engines["llamacpp"].piece(token)

    def _prepared(self, jobs: Iterable[TextJob], refused: deque[TextEvent]) -> Iterator[_Work]:
        for number, job in enumerate(jobs):
            try:
                requests = self._requests(job)
                engine = self._engine_for(job.config, requests[0].bias)
            except GenkitError as error:
                refused.append(TextEvent(number, 0, "", "error", 0, error=error))
                continue
            yield _Work(number, engine, requests, self._slides(job))

    def _slides(self, job: TextJob) -> bool:
        """Whether the text goes on where the context is full: not from half an answer, nor against a rule's state."""
        known = self.tokenizer is not None and self.continues and isinstance(job.prompt, str)
        return known and job.config.num_beams == 1 and job.config.constraint is None

    def _requests(self, job: TextJob) -> list[TokenRequest]:
        from genkit.text.engines import TokenRequest

        config, bias, ends = job.config, self._bias(job.config), frozenset[int]()
        if isinstance(job.prompt, str):
            prompt = self._encode(job.prompt)
        else:
            prompt, ends = self._checked([*job.prompt.ids]), job.prompt.ends
            config = config.replace(stop=(*config.stop, *job.prompt.stops))
        beams = config.num_beams > 1
        return [
            TokenRequest(
                prompt,
                config,
                seed=job.seed + (0 if beams else i),
                rank=i if beams else 0,
                bias=bias,
                live=job.live,
                ends=ends,
            )
            for i in range(config.n)
        ]

    def _encode(self, prompt: str) -> list[int] | str:
        if self.tokenizer is None:
            return prompt
        return self._checked([*self.tokenizer.opening, *self.tokenizer.encode(prompt)] or [self.tokenizer.eos_id])

    @property
    def _opening(self) -> list[int]:
        """The tokens that stand before any text."""
        return self.tokenizer.opening if self.tokenizer else []

    def _before(self, request: TokenRequest) -> Sequence[int]:
        """The last tokens of what the text goes on from."""
        return [token for token in request.prompt[-_CONTEXT:] if isinstance(token, int)]

    def _checked(self, ids: list[int]) -> list[int]:
        from genkit.text.engines import check_length

        check_length(len(ids), self.context)
        return ids

    def _bias(self, config: GenerationConfig) -> Bias:
        if config.logit_bias and self.tokenizer is None:
            raise UsageError(f"--logit-bias needs a tokenizer.json, and {self.path} is one file", "leave it out")
        pairs = [parse_bias(text) for text in config.logit_bias]
        return tuple((tuple(self.tokenizer.encode(text)), bias) for text, bias in pairs) if self.tokenizer else ()

    def _engine_for(self, config: GenerationConfig, bias: Bias) -> str:
        """The engine that can do it: the placement's, or another where the user left it open."""
        from genkit.text.engines import lacks, listed

        usual = self.placement.engine
        missing = lacks(usual, config, bias)
        if not missing:
            return usual
        others = [name for name in _TAKE_OVER if name != usual]
        other = next((name for name in others if not lacks(name, config, bias)), others[0])
        flags = listed(missing)
        if self.tokenizer is None:
            raise UsageError(f"{self.path.name} runs on llama.cpp alone, which cannot do {flags}", "leave it out")
        if self._asked_engine != "auto":
            raise UsageError(f"--engine {usual} cannot do {flags}", f"use --engine {other}")
        if also := lacks(other, config, bias):
            rest = listed([flag for flag in missing if flag not in also])
            raise UsageError(f"{rest} and {listed(also)} exclude each other", "no engine does both")
        if other not in self._moved:
            try:
                self._place(other)
            except ResourceError as error:
                raise ResourceError(f"{flags} needs {other}, and {error.message}", error.hint) from None
            self._moved.add(other)
            self._note(f"{flags}: done by {other}, which {usual} cannot")
        return other

    def _run_on(
        self, name: str, works: Iterable[_Work], parallel: int, refused: deque[TextEvent]
    ) -> Iterator[TextEvent]:
        from genkit.text.writing import Writer

        engine = self._engine(name, parallel)

        def new() -> Iterator[Row]:
            for work in works:
                for index, request in enumerate(work.requests):
                    writer = Writer(self._decoder(request), request.config.stop, request.ends)
                    yield Row(work.job, index, request, writer, work.slides)

        rows = Rows(new(), self._opening)
        with guard(name, "lower -n or --max-new-tokens, or use --device cpu"):
            for event in engine.generate(rows):
                while refused:
                    yield refused.popleft()
                row, text, finish = rows.take(event, engine.context)
                if not (text or finish or row.request.live or event.logprob is not None):
                    continue  # the text is told at its end
                place = row.job, row.index, text, finish, row.writer.tokens
                yield TextEvent(*place, event.token, event.logprob, event.top, event.error)

    def _decoder(self, request: TokenRequest) -> Decoder | None:
        if self.tokenizer is None:
            return None
        in_pieces = request.live or request.config.stop or request.config.logprobs is not None
        make = self.tokenizer.stream_decoder if in_pieces else self.tokenizer.whole_decoder
        return make(self._before(request))

    def _engine(self, name: str, parallel: int) -> Any:
        """The open engine of that name; opened first if need be."""
        room = self._rooms.get(name, 0)  # of the open one; a smaller one may still be at work
        exactly = name == "llamacpp" and self._at_once == 1
        if name in self._engines and (parallel == room if exactly else parallel <= room):
            return self._engines[name]
        started = time.monotonic()
        self._engines[name], self._rooms[name] = self._opened(name, parallel)
        self._undo.callback(self._engines[name].close)
        self._note(f"{name} loaded the model in {time.monotonic() - started:.2f} s")
        return self._engines[name]

    def _opened(self, name: str, parallel: int) -> tuple[TextEngine, float]:
        """A new engine, and for how many rows it has room."""
        from genkit.pipeline.opening import open_llamacpp, open_torch

        if name == "native":
            from genkit.text.engines.native import NativeEngine

            return NativeEngine(self._weights, parallel=parallel), parallel
        if name == "llamacpp":
            known = self.tokenizer is not None
            return open_llamacpp(self._view if known else self.path, self._shape if known else None, parallel), parallel
        assert self.tokenizer is not None  # `_engine_for` sends no .gguf here
        return open_torch(self.path, self._shape, self.tokenizer, self._place(name), self._undo), math.inf

    @functools.cached_property
    def _at_once(self) -> int:
        """Rows that llama.cpp takes together without one changing another, and that pay.

        fp32 gains from many, int8 only from few; fp16 kernels sum otherwise in a batch.
        """
        if self.tokenizer:
            precision = self._place("llamacpp").precision
        else:
            from genkit.text.gguf.check import check_gguf

            file_type = check_gguf(self.path).fields.get("general.file_type", -1)
            precision = {0: "fp32", 7: "int8"}.get(file_type, "other")  # all F32, mostly Q8_0
        return {"fp32": PARALLEL, "int8": 16}.get(precision, 1)

    @functools.cached_property
    def _weights(self) -> Weights:
        """The model as the native decoder reads it."""
        from genkit.text.native.weights import Weights

        return Weights(self.path, self._shape, self._place("native").precision)

    @functools.cached_property
    def _view(self) -> Path:
        """The model as llama.cpp reads it."""
        from genkit.text.gguf.convert import gguf_view

        return gguf_view(self.path, self._place("llamacpp").precision)

"""Rows of tokens, drawn one after another by torch, whatever model computes the logits."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig
from genkit.text.engines import Bias, TokenEvent, TokenRequest, check_length
from genkit.text.engines.beams import Beam, BeamDecoder, beam_search
from genkit.text.sampling import Past, Rules, likeliest, process, sample

CACHE_BYTES = 1 << 30  # rows beyond this wait; on CUDA, beyond half of the free memory


class RowDecoder(Protocol):
    """A cache, and the step over its first rows; `logits` (rows, V) fp32 are of each row's next token."""

    @property
    def logits(self) -> Tensor: ...

    def begin(self, row: int, prompt: Sequence[int]) -> None: ...

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> None: ...

    def move(self, source: int, target: int) -> None: ...

    def bytes(self, rows: int, tokens: int) -> int: ...


class RowEngine(ABC):
    """Decodes many rows at once; a row that is done makes room for the next request.

    Attributes:
        context: how many tokens prompt and continuation may have together.
    """

    def __init__(self, runtime: Runtime, context: int, vocab_size: int) -> None:
        self.context = context
        self._runtime, self._vocab_size = runtime, vocab_size
        self._rules = functools.lru_cache(64)(self._make_rules)  # rows with equal settings share them

    @abstractmethod
    def _make_rules(self, config: GenerationConfig, bias: Bias) -> Rules: ...

    @abstractmethod
    def _row_decoder(self) -> AbstractContextManager[RowDecoder]: ...

    @abstractmethod
    def _beam_decoder(self, width: int) -> AbstractContextManager[BeamDecoder]: ...

    @property
    @abstractmethod
    def _most_rows(self) -> int: ...

    def _begun(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """What stands before the text that is written: all of the prompt, but of an encoder's source nothing."""
        return prompt

    def generate(self, requests: Iterable[TokenRequest]) -> Iterator[TokenEvent]:
        """Yield tokens as they are drawn; a row's last event says why it is `done`.

        A row ends with an error where its prompt is empty, has ids beyond the vocabulary
        or fills the context, and where its rules leave no token to draw. The beams of one
        search are searched once, and told when the search is over.

        Raises:
            InputError: the model's logits are not finite.
        """
        with self._row_decoder() as decoder:
            pending = enumerate(requests)
            arriving = self._arriving(pending)
            rows: list[_Row] = []  # the decoder's first ones, in its order
            following = next(arriving, None)
            while rows or following is not None:
                while following is not None and self._has_room(decoder, rows, following):
                    if isinstance(following, _Row):
                        decoder.begin(len(rows), following.source)
                        rows.append(following)
                    else:
                        yield following
                    following = next(arriving, None)
                yield from self._advance(decoder, rows)
                if following is None:  # a row that ended may have brought another
                    arriving = self._arriving(pending)
                    following = next(arriving, None)

    def _arriving(self, requests: Iterable[tuple[int, TokenRequest]]) -> Iterator[_Row | TokenEvent]:
        """Rows to decode; and the events of requests that need none, because they are refused or searched."""
        searched: tuple[object, list[Beam]] = None, []
        for index, request in requests:
            if request.finished:
                continue
            try:
                source = self._checked(request.prompt)
                row = _Row(index, request, source, self._begun(source), self._rules(request.config, request.bias))
                if request.drawn:
                    given = len(source) - request.drawn
                    row.past = Past(source[:given], list(source[given:]))
                row.limit = min(request.config.max_new_tokens, self.context - len(row.past.prompt))
                if request.config.num_beams > 1:
                    search = source, request.config, request.bias
                    if search != searched[0]:
                        searched = search, self._search(row)
                    yield from _tell(row, searched[1])
                else:
                    yield row
            except InputError as error:
                yield TokenEvent(index, -1, "error", error=error)

    def _advance(self, decoder: RowDecoder, rows: list[_Row]) -> Iterator[TokenEvent]:
        """Draw every row's token, let go of rows that are done, and append the tokens of the others."""
        for row, drawn in zip(rows, self._draw(decoder.logits, rows), strict=True):
            if not row.request.finished:  # the consumer may have ended it meanwhile
                row.done = drawn.done
                row.past.text.append(drawn.token)
                yield drawn
        for place in reversed(range(len(rows))):
            if rows[place].done or rows[place].request.finished:
                last = rows.pop()
                if place < len(rows):
                    rows[place] = last
                    decoder.move(len(rows), place)
        if rows:
            decoder.step([row.past.text[-1] for row in rows], [row.length - 1 for row in rows])

    @torch.inference_mode()
    def _draw(self, logits: Tensor, rows: list[_Row]) -> list[TokenEvent]:
        """The event of each row's next token."""
        events: dict[int, TokenEvent] = {}
        for rules in {id(row.rules): row.rules for row in rows}.values():
            places = [i for i, row in enumerate(rows) if row.rules is rules]
            own = logits[: len(rows)] if len(places) == len(rows) else logits[places]  # (B, V)
            processed = process(own, rules, [rows[i].past for i in places])
            if rules.config.temperature == 0:
                tokens = processed.argmax(-1)
            else:
                uniforms = [rows[i].stream.random() for i in places]
                tokens = sample(processed, torch.tensor(uniforms, dtype=torch.float64))
            sound = processed.amax(-1).isfinite()
            told = torch.stack([tokens, sound]).tolist()  # one wait for the device
            if not all(told[1]) and not own.isfinite().all():
                raise InputError("the model's logits are not finite", "its weights are damaged; use another model")
            logprobs: list[float | None] = [None] * len(places)
            tops: list[tuple[tuple[int, float], ...]] = [()] * len(places)
            if rules.config.logprobs is not None:
                own = own.log_softmax(-1)
                logprobs = own.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
                tops = likeliest(own, rules.config.logprobs)
            for i, token, possible, logprob, top in zip(places, *told, logprobs, tops, strict=True):
                events[i] = rows[i].event(token, logprob, top) if possible else _impossible(rows[i].index)
        return [events[i] for i in range(len(rows))]

    def _search(self, row: _Row) -> list[Beam]:
        with self._beam_decoder(row.rules.config.num_beams) as decoder:
            return beam_search(decoder, row.source, row.rules, row.limit, begun=row.past.prompt)

    def _has_room(self, decoder: RowDecoder, rows: list[_Row], following: _Row | TokenEvent) -> bool:
        if not rows or isinstance(following, TokenEvent):
            return True
        if len(rows) == self._most_rows:
            return False
        longest = max(len(row.past.prompt) + row.limit for row in [*rows, following])
        return decoder.bytes(len(rows) + 1, longest) <= self._memory

    def _checked(self, prompt: list[int] | str) -> tuple[int, ...]:
        if isinstance(prompt, str):
            raise InputError("the torch engine reads token ids, not text")
        vocabulary = self._vocab_size
        check_length(len(prompt), self.context)
        if wrong := [token for token in prompt if not 0 <= token < vocabulary]:
            raise InputError(f"token {wrong[0]} of the prompt is not in the model's vocabulary of {vocabulary:,}")
        return tuple(prompt)

    @functools.cached_property
    def _memory(self) -> int:
        device = self._runtime.device
        return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CACHE_BYTES


class _Row:
    """A request on its way, with its own random stream."""

    def __init__(
        self, index: int, request: TokenRequest, source: tuple[int, ...], begun: tuple[int, ...], rules: Rules
    ) -> None:
        self.index, self.request, self.source, self.rules, self.past = index, request, source, rules, Past(begun)
        self.stream = np.random.Generator(np.random.Philox(key=np.array([request.seed, 0], dtype=np.uint64)))
        self.limit = 0
        self.done: str | None = None

    @property
    def length(self) -> int:
        return len(self.past.prompt) + len(self.past.text)

    def event(self, token: int, logprob: float | None, top: tuple[tuple[int, float], ...]) -> TokenEvent:
        """The next token, and whether it is the last."""
        done = "eos" if token in self.rules.endings else "length" if len(self.past.text) + 1 == self.limit else None
        return TokenEvent(self.index, token, done, logprob, top)


def _tell(row: _Row, beams: list[Beam]) -> Iterator[TokenEvent]:
    """The events of the beam that a request asks for."""
    if row.request.rank >= len(beams):
        yield _impossible(row.index)
        return
    beam = beams[row.request.rank]
    for i, token in enumerate(beam.text):
        if row.request.finished:
            return
        yield row.event(token, beam.logprobs[i] if beam.logprobs else None, beam.tops[i] if beam.tops else ())
        row.past.text.append(token)


def _impossible(index: int) -> TokenEvent:
    error = InputError("the rules leave no token to go on with", "loosen --bad-word, --logit-bias or the like")
    return TokenEvent(index, -1, "error", error=error)

"""The torch engine: the reference, and the one for accelerators."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig
from genkit.text.engines import TokenEvent, TokenRequest
from genkit.text.models.gpt import GPT, KVCache
from genkit.text.sampling import process, sample

BATCH = 256  # rows at a time, fewer where their keys and values would outgrow CACHE_BYTES
CACHE_BYTES = 1 << 30


class TorchTextEngine:
    """Decodes rows in batches over a static key-value cache.

    Prompts of different lengths share a batch, equal prompts are read once, and
    rows that are done leave. The model is put on the runtime's device and into
    eval mode.
    """

    def __init__(self, model: GPT, runtime: Runtime) -> None:
        self.model = model.to(runtime.device).eval()
        self.runtime = runtime

    def generate(self, requests: Sequence[TokenRequest]) -> Iterator[TokenEvent]:
        """Yield tokens as they are drawn; a row's last event says why it is `done`.

        Raises:
            InputError: a prompt is empty, has ids beyond the vocabulary or leaves
                no room in the context; or the model's logits are not finite.
        """
        config = self.model.config
        for request in requests:
            _check(request.prompt, config.vocab_size, config.block_size)
        longest = max((len(r.prompt) + r.config.max_new_tokens for r in requests), default=1)
        capacity = min(config.block_size, longest)
        size = min(BATCH, max(1, CACHE_BYTES // KVCache.row_bytes(config, capacity, self.runtime.dtype)))
        for start in range(0, len(requests), size):
            chunk = enumerate(requests[start : start + size], start)
            rows = [_Row(index, request, config.block_size) for index, request in chunk if not request.finished]
            if rows:
                yield from self._decode(rows, capacity)

    def _decode(self, rows: list[_Row], capacity: int) -> Iterator[TokenEvent]:
        logits, cache = self._read(rows, capacity)  # (R, V)
        penalised = any(_penalises(row.request.config) for row in rows)
        history = _History(rows, logits) if penalised else None
        step = 0
        while True:
            tokens, logprobs = self._choose(logits, rows, history, step)
            step += 1
            kept = []
            for i, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
                if row.request.finished:
                    continue
                done = "eos" if token == self.model.config.eos_id else "length" if step == row.limit else None
                yield TokenEvent(row.index, token, logprob, done)
                if done is None:
                    kept.append(i)
            kept = [i for i in kept if not rows[i].request.finished]  # the consumer may have ended some meanwhile
            if not kept:
                return
            if len(kept) < len(rows):
                rows, index = [rows[i] for i in kept], torch.tensor(kept, device=tokens.device)
                tokens = tokens[index]
                cache.select(index)
                if history:
                    history.select(index)
            if history:
                history.add(tokens)
            logits = self._step(tokens, cache)

    @torch.inference_mode()
    def _read(self, rows: list[_Row], capacity: int) -> tuple[Tensor, KVCache]:
        """Run the distinct prompts, then give each row its copy: logits (R, V) and the cache."""
        device = self.runtime.device
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
        lengths = torch.tensor([len(prompt) for prompt in place], device=device)
        ids = torch.zeros(len(place), max(map(len, place)), dtype=torch.int64)  # (P, T), padded on the right
        for prompt, i in place.items():
            ids[i, : len(prompt)] = torch.tensor(prompt)
        cache = KVCache(self.model.config, len(place), capacity, device=device, dtype=self.runtime.dtype)
        with self.runtime.autocast():
            hidden = self.model.hidden(ids.to(device), cache)  # (P, T, C)
            logits = self.model.logits(hidden[torch.arange(len(place), device=device), lengths - 1]).float()
        cache.trim(lengths)
        if len(rows) > len(place):
            copies = torch.tensor([place[row.prompt] for row in rows], device=device)
            cache.select(copies)
            logits = logits[copies]
        return logits, cache

    @torch.inference_mode()
    def _step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append tokens (R,); the logits (R, V) of the next ones."""
        with self.runtime.autocast():
            return self.model.logits(self.model.hidden(tokens.unsqueeze(1), cache))[:, 0].float()

    @torch.inference_mode()
    def _choose(self, logits: Tensor, rows: list[_Row], history: _History | None, step: int) -> tuple[Tensor, Tensor]:
        """The rows' next tokens (R,) and their log-probabilities (R,)."""
        if not logits.isfinite().all():
            raise InputError("the model's logits are not finite", "its weights are damaged; use another model")
        tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
        for config in dict.fromkeys(row.request.config for row in rows):
            members = [i for i, row in enumerate(rows) if row.request.config == config]
            index = torch.tensor(members, device=logits.device)
            own = logits[index]
            if step < config.min_new_tokens and self.model.config.eos_id is not None:
                own[:, self.model.config.eos_id] = -math.inf
            past = {"seen": history.seen[index], "counts": history.counts[index]} if history else {}
            own = process(own, config, **past)
            if config.temperature == 0:
                tokens[index] = own.argmax(-1)
            else:
                uniforms = torch.tensor([rows[i].stream.random() for i in members], dtype=torch.float64)
                tokens[index] = sample(own, uniforms)
        return tokens, logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)


class _Row:
    """A request on its way, with its own random stream."""

    def __init__(self, index: int, request: TokenRequest, block_size: int) -> None:
        self.index, self.request, self.prompt = index, request, tuple(request.prompt)
        self.limit = min(request.config.max_new_tokens, block_size - len(request.prompt))
        self.stream = np.random.Generator(np.random.Philox(key=np.array([request.seed, 0], dtype=np.uint64)))


class _History:
    """The tokens that penalties look at: `seen` (R, V) in prompt or text, `counts` (R, V) in the text."""

    def __init__(self, rows: list[_Row], logits: Tensor) -> None:
        self.seen = torch.zeros_like(logits, dtype=torch.bool)
        self.counts = torch.zeros_like(logits, dtype=torch.int32)
        for i, row in enumerate(rows):
            self.seen[i, torch.tensor(row.prompt, device=logits.device)] = True

    def add(self, tokens: Tensor) -> None:
        rows = torch.arange(len(tokens), device=tokens.device)
        self.seen[rows, tokens] = True
        self.counts[rows, tokens] += 1

    def select(self, rows: Tensor) -> None:
        self.seen, self.counts = self.seen[rows], self.counts[rows]


def _penalises(config: GenerationConfig) -> bool:
    return config.repetition_penalty != 1 or config.frequency_penalty != 0 or config.presence_penalty != 0


def _check(prompt: Sequence[int], vocab_size: int, block_size: int) -> None:
    if not prompt:
        raise InputError("the prompt has no tokens", "give at least one, for instance the end-of-text token")
    if len(prompt) >= block_size:
        raise InputError(
            f"the prompt has {len(prompt):,} tokens, the model's context is {block_size:,}",
            f"shorten it to {block_size - 1:,} tokens or fewer",
        )
    if wrong := [token for token in prompt if not 0 <= token < vocab_size]:
        raise InputError(f"token {wrong[0]} of the prompt is not in the model's vocabulary of {vocab_size:,}")

"""One more token for many rows at once, each row with the bits it would have alone.

A matrix product rounds differently for other numbers of rows. So a step computes
one of a few widths, those that give a row the same bits, with rows to spare where
fewer live; and a prompt is read alone, at its own length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.runtime.manager import Runtime
from genkit.text.models.cache import KVCache
from genkit.text.models.gpt import GPT, MLP

WIDTHS = (4, 8, 16, 32, 64)
SMALL_PRODUCT = 16**3  # multiplications
REACH = 64  # slots that attention reads at least; then it is doubled


@dataclass(frozen=True)
class Prefix:
    """A prompt that was read: its keys and values, and the logits (V,) of what comes next."""

    prompt: tuple[int, ...]
    cache: KVCache
    logits: Tensor


class Decoder:
    """A cache, and the step over its rows. What it returns is valid until the next call.

    Args:
        model: from `for_decoding`.
        widths: how many rows a step may compute, ascending.

    Attributes:
        logits: (rows, V) fp32, of each row's next token.
    """

    def __init__(self, model: GPT, runtime: Runtime, widths: Sequence[int]) -> None:
        self.model, self.runtime, self.widths = model, runtime, widths
        # attention on a CPU computes in fp32 whatever the precision
        self._dtype = torch.float32 if runtime.device.type == "cpu" else runtime.dtype
        self._cache = self._empty(0, 0)
        self.logits = torch.empty(0, model.config.vocab_size, device=runtime.device)
        self._inputs = torch.zeros(2, widths[-1], dtype=torch.int64, device=runtime.device)  # tokens, positions
        self._steps: dict[tuple[int, int], Callable[[], None]] = {}
        self._prefix: Prefix | None = None

    def bytes(self, rows: int, tokens: int) -> int:
        """Memory of the cache for so many rows of so many tokens."""
        return self._width(rows) * KVCache.row_bytes(self.model.config, reach(tokens), self._dtype)

    @torch.inference_mode()
    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Put a prompt into `row`; the last one is remembered, and read once."""
        prompt = tuple(prompt)
        if self._prefix is None or self._prefix.prompt != prompt:
            self._prefix = self._read(prompt)
        self._fit(row + 1, len(prompt))
        self._cache.window(slice(row, row + 1), len(prompt)).write(self._prefix.cache)
        self.logits[row] = self._prefix.logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Append a token to each of the first rows, at its position; sets their `logits`."""
        self._fit(len(tokens), max(positions) + 1)
        width, slots = shape = self._width(len(tokens)), reach(max(positions) + 1)
        spare = [0] * (width - len(tokens))  # rows that compute nothing of use, but within the slots
        self._inputs[:, :width] = torch.tensor([[*tokens, *spare], [*positions, *spare]])
        if shape not in self._steps:
            self._steps[shape] = captured(functools.partial(self._compute, width, slots), self.runtime.device)
        self._steps[shape]()

    @torch.inference_mode()
    def select(self, rows: Sequence[int], tokens: int) -> None:
        """Make `rows`, of up to so many tokens, the first ones, in that order; a row may be taken several times."""
        index = torch.tensor(rows, device=self.runtime.device)
        for table in (self._cache.keys, self._cache.values):
            table[:, : len(rows), :, :tokens] = table[:, :, :, :tokens].index_select(1, index)

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Put a row into another's place."""
        for table in (self._cache.keys, self._cache.values):
            table[:, target] = table[:, source]

    def fill(self, past: Tensor) -> None:
        """Give all rows and heads the same keys and values (S, head_dim)."""
        self._fit(1, len(past))
        everywhere = torch.arange(len(past), device=past.device)
        heads = past.to(self._dtype).expand(self._cache.rows, self._cache.keys.shape[2], *past.shape)
        for layer in range(self._cache.keys.shape[0]):
            self._cache.store(layer, everywhere, heads, heads)

    def _read(self, prompt: tuple[int, ...]) -> Prefix:
        cache = self._empty(1, len(prompt))
        ids = torch.tensor([prompt], device=self.runtime.device)  # (1, T)
        with self.runtime.autocast():
            logits = self.model.logits(self.model.hidden(ids, cache)[0, -1]).float()
        return Prefix(prompt, cache, logits)

    def _compute(self, width: int, slots: int) -> None:
        """The step itself, between memory that stays in place; nothing in it waits for the device."""
        tokens, positions = self._inputs[:, :width]
        with self.runtime.autocast():
            hidden = self.model.hidden(tokens.unsqueeze(1), self._cache.window(slice(width), slots), positions)
            self.logits[:width] = self.model.logits(hidden[:, 0])

    def _width(self, rows: int) -> int:
        return next(width for width in self.widths if width >= rows)

    def _fit(self, rows: int, tokens: int) -> None:
        """Make room; what was captured is tied to the old memory."""
        rows, slots = max(self._width(rows), self._cache.rows), max(reach(tokens), self._cache.slots)
        if (rows, slots) == (self._cache.rows, self._cache.slots):
            return
        self._steps.clear()
        old, self._cache = self._cache, self._empty(rows, slots)
        self._cache.window(slice(old.rows), old.slots).write(old)
        self.logits = F.pad(self.logits, (0, 0, 0, rows - len(self.logits)))

    def _empty(self, rows: int, slots: int) -> KVCache:
        return KVCache.empty(self.model.config, rows, slots, device=self.runtime.device, dtype=self._dtype)


def reach(tokens: int) -> int:
    """How many slots a step reads for rows of up to so many tokens."""
    return max(REACH, 1 << (tokens - 1).bit_length())


def captured(step: Callable[[], None], device: torch.device, cuda: Any = torch.cuda) -> Callable[[], None]:
    """`step`, recorded as a CUDA graph where there is CUDA: one launch instead of hundreds.

    It must read and write memory that stays in place, and never wait for the device.
    """
    if device.type != "cuda":
        return step
    side = cuda.Stream(device)
    side.wait_stream(cuda.current_stream(device))
    with cuda.stream(side):  # libraries set themselves up outside the recording
        for _ in range(3):
            step()
    cuda.current_stream(device).wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def for_decoding(model: GPT, runtime: Runtime) -> GPT:
    """A model that shares `model`'s weights, with those of matrix products rounded once instead of at every step."""
    with torch.device("meta"):
        twin = GPT(dataclasses.replace(model.config, tie_embeddings=False))
    weights = {**model.state_dict(), "lm_head.weight": model.head_weight.detach()}
    products = tuple(f"{name}." for name, module in twin.named_modules() if isinstance(module, nn.Linear))
    twin.load_state_dict(
        {name: w.to(runtime.dtype) if name.startswith(products) else w for name, w in weights.items()}, assign=True
    )
    if runtime.device.type == "cpu":
        for module in twin.modules():
            if isinstance(module, MLP):
                module.activation = gelu if model.config.arch == "gpt2" else silu
    return twin.eval()


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) in operations whose result does not depend on where in `x` a number is, as torch's own does."""
    return x / (1 + (-x).exp())


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form; see `silu`."""
    return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@torch.inference_mode()
def exact_widths(model: GPT, runtime: Runtime, widths: Sequence[int] = WIDTHS) -> list[int]:
    """Those of `widths` in which a row's logits have the same bits as in the widest, tried on the first block.

    Products that are too small for oneDNN go to another library, which rounds bf16
    differently so rarely that a trial would not show it; those widths are left out.
    """
    with torch.device("meta"):
        block = GPT(dataclasses.replace(model.config, n_layer=1))
    block.blocks, block.embed, block.positions = model.blocks[:1], model.embed, model.positions
    block.norm, block.lm_head = model.norm, model.lm_head
    random = torch.Generator().manual_seed(0)
    slots = min(REACH, model.config.block_size)
    tokens = torch.randint(model.config.vocab_size, widths[-1:], generator=random).tolist()
    positions = torch.randint(slots, widths[-1:], generator=random).tolist()
    past = torch.randn(slots, model.config.head_dim, generator=random)

    def logits(width: int) -> Tensor:
        decoder = Decoder(block, runtime, [width])
        decoder.fill(past)
        decoder.step(tokens[:width], positions[:width])
        return decoder.logits

    *narrower, widest = widths
    smallest = min(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    narrower = [width for width in narrower if width * smallest > SMALL_PRODUCT]
    wanted = logits(widest)
    return [*(width for width in narrower if torch.equal(logits(width), wanted[:width])), widest]

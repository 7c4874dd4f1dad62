"""Keys and values of the tokens so far, and attention to them, row by row the same bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from genkit.text.config import GPTConfig

LINE = 16  # fp32 numbers in a cache line: MKL sums in another order where a matrix begins inside one


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the tokens so far: what row b holds at position p is in its slot p.

    Attributes:
        keys, values: (n_layer, B, n_kv_head, S, D); D is head_dim, filled up with zeros
            to a multiple of `LINE`.
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, config: GPTConfig, rows: int, slots: int, *, device: torch.device, dtype: torch.dtype) -> KVCache:
        shape = (config.n_layer, rows, config.n_kv_head, slots, _width(config))
        keys, values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        return cls(keys, values)

    @staticmethod
    def row_bytes(config: GPTConfig, slots: int, dtype: torch.dtype) -> int:
        """Memory of one row."""
        return 2 * config.n_layer * config.n_kv_head * slots * _width(config) * dtype.itemsize

    @property
    def rows(self) -> int:
        return self.keys.shape[1]

    @property
    def slots(self) -> int:
        return self.keys.shape[3]

    def window(self, rows: slice, slots: int) -> KVCache:
        """Some rows' first slots; shares the memory."""
        return KVCache(self.keys[:, rows, :, :slots], self.values[:, rows, :, :slots])

    def write(self, other: KVCache) -> None:
        """Take over the rows of `other`, which is no longer."""
        self.keys[:, :, :, : other.slots] = other.keys
        self.values[:, :, :, : other.slots] = other.values

    def store(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v (B, n_kv, T, hd) at `positions` (T,) or (B, T)."""
        rows = torch.arange(k.shape[0], device=k.device).unsqueeze(1)
        for table, new in ((self.keys, k), (self.values, v)):
            table[layer, ..., : k.shape[-1]][rows, :, positions] = new.transpose(1, 2).to(table.dtype)

    def mask(self, positions: Tensor) -> Tensor:
        """(B, 1, 1, S) to add to scores: 0 up to each row's position (B,), -inf beyond."""
        beyond = torch.arange(self.slots, device=positions.device) > positions[:, None, None, None]
        return torch.zeros(beyond.shape, device=positions.device, dtype=self.keys.dtype).masked_fill(beyond, -math.inf)


def _width(config: GPTConfig) -> int:
    return -(-config.head_dim // LINE) * LINE


def attend_cached(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of one query a row, q (B, n_head, 1, hd), to k, v (B, n_kv, S, D) of a cache under its mask.

    A row's result has the same bits whatever B, its place in it and S, a multiple of
    64. The queries that share keys become the rows of one matrix.
    """
    B, H, _, hd = q.shape
    n_kv, D = k.shape[1], k.shape[3]
    q = F.pad(q, (0, D - hd)).view(B, n_kv, H // n_kv, D).to(k.dtype)
    if q.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            y = _attend_on_cpu(q, k, v, mask.squeeze(1), hd**-0.5)
    elif q.device.type == "cuda":  # this kernel goes through the keys in order, whatever B and S
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=hd**-0.5)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=hd**-0.5)
    return y.reshape(B, H, 1, D)[..., :hd]


def _attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Grouped queries (B, n_kv, G, D) to k, v (B, n_kv, S, D) under (B, 1, S), by matrix products.

    One query at a time: with more, the order in which MKL sums depends on B and S.
    """
    B, n_kv, S, D = k.shape
    k, v = k.reshape(B * n_kv, S, D), v.reshape(B * n_kv, S, D)
    answers = []
    for one in q.reshape(B * n_kv, -1, D).unbind(1):
        scores = torch.bmm(one.unsqueeze(1), k.transpose(1, 2)).view(B, n_kv, S) * scale + mask
        answers.append(torch.bmm(scores.softmax(-1).view(B * n_kv, 1, S), v))
    return torch.cat(answers, dim=1)  # (B n_kv, G, D)

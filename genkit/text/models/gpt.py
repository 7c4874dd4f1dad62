"""A decoder-only transformer in one module: GPT-2, Llama and Qwen3 are settings of it.

    ids (B, T) -> embed -> n_layer x [norm, attention, norm, mlp] -> norm -> head -> logits (B, T, V)

`state_dict` names are short and the same for every arch; `to_hf_state` and
`load_hf_state` translate to and from the tensors that `transformers` stores.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.text.config import GPTConfig
from genkit.text.losses import linear_cross_entropy
from genkit.text.models.cache import KVCache, attend_cached
from genkit.text.models.fused import rms_norm, rotate

MAX_PARAMETERS = 1 << 36
INIT_STD = 0.02


def rope_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embeddings (Su et al. 2021).

    Args:
        positions: (..., T) token positions.

    Returns:
        Two fp32 tensors (..., T, 1, head_dim / 2), to broadcast over heads.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions.unsqueeze(-1).float() * (1.0 / theta**exponents)
    return angles.cos().unsqueeze(-2), angles.sin().unsqueeze(-2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q (B, n_head, T, hd) to k, v (B, n_kv, T, hd)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= 512:
        return _attend_matmul(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def _attend_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention written out: torch's fused CPU kernel computes bf16 at the speed of fp32, 2.6 times slower."""
    B, H, T, hd = q.shape
    if k.shape[1] != H:
        k, v = (t.repeat_interleave(H // t.shape[1], dim=1) for t in (k, v))
    q, k, v = (t.reshape(B * H, T, hd) for t in (q, k, v))
    future = q.new_full((T, T), -math.inf).triu(1).expand(B * H, T, T)
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=hd**-0.5)  # (B H, T, T)
    return torch.bmm(scores.softmax(-1), v).view(B, H, T, hd)


def to_compute(x: Tensor) -> Tensor:
    """x as autocast would hand it to a matrix product: once, where several take it, as are their gradients' sums."""
    kind = x.device.type
    under = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if under else x


class RMSNorm(nn.RMSNorm):
    """Root mean square norm (Zhang and Sennrich 2019); under autocast the gain follows the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention; fewer key-value heads than heads share them in groups."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        bias = config.arch == "gpt2"
        self.head_dim = config.head_dim
        self.q = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=bias)
        self.k = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=bias)
        self.v = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=bias)
        self.o = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=bias)
        normed = config.arch == "qwen3"
        self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if normed else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if normed else None

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        layer: int,
        positions: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        B, T, _ = x.shape
        q = self.q(x).view(B, T, -1, self.head_dim)  # (B, T, n_head, hd)
        k = self.k(x).view(B, T, -1, self.head_dim)  # (B, T, n_kv, hd)
        v = self.v(x).view(B, T, -1, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, hd)
        if cache is not None:
            cache.store(layer, positions, k, v)
        if cache is not None and mask is not None:
            y = attend_cached(q, cache.keys[layer], cache.values[layer], mask).to(x.dtype)
        else:
            y = attend(q, k, v)
        out: Tensor = self.o(y.transpose(1, 2).reshape(B, T, -1))
        return out


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel 2016)."""
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """GELU (gpt2) or SwiGLU (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        bias = config.arch == "gpt2"
        self.gate = None if config.arch == "gpt2" else nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.up = nn.Linear(config.n_embd, config.n_inner, bias=bias)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=bias)
        self.activation: Callable[[Tensor], Tensor] = gelu if config.arch == "gpt2" else F.silu

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        out: Tensor = self.down(x)
        return out


def _norm(config: GPTConfig) -> nn.Module:
    kind = nn.LayerNorm if config.arch == "gpt2" else RMSNorm
    return kind(config.n_embd, eps=config.norm_eps)


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding that `reset_parameters` fills; drawing it on meta would import torch's compiler."""
    table: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        torch.empty(rows, width), freeze=False
    )
    return table


class Block(nn.Module):
    """Pre-norm residual block. Dropout acts on the two branches (and on the embedding)."""

    def __init__(self, config: GPTConfig, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(config)
        self.attn = Attention(config)
        self.norm2 = _norm(config)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, *context: object) -> Tensor:
        x = x + self.drop(self.attn(to_compute(self.norm1(x)), *context))
        x = x + self.drop(self.mlp(to_compute(self.norm2(x))))
        return x


class GPT(nn.Module):
    """The model.

    Weights are drawn N(0, 0.02); projections back into the residual stream start
    at zero, or, in gpt2, at 0.02 / sqrt(2 n_layer). On `torch.device("meta")`
    nothing is allocated or drawn.

    Raises:
        InputError: the config asks for more than 2^36 parameters.
    """

    def __init__(self, config: GPTConfig, dropout: float = 0.0) -> None:
        super().__init__()
        if (size := count_parameters(config)) > MAX_PARAMETERS:
            raise InputError(f"model config: {size:,} parameters are too many to build")
        self.config = config
        self.embed = _table(config.vocab_size, config.n_embd)
        self.positions = _table(config.block_size, config.n_embd) if config.arch == "gpt2" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.n_layer))
        self.norm = _norm(config)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if not self.embed.weight.is_meta:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's global generator."""
        residual = INIT_STD / math.sqrt(2 * self.config.n_layer) if self.config.arch == "gpt2" else 0.0
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, residual if name.endswith(("attn.o.weight", "mlp.down.weight")) else INIT_STD)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the next token after each of `ids` (B, T); with `targets`, the `loss`.

        One entry for both, because DistributedDataParallel sees `forward` alone.
        """
        hidden = self.hidden(ids)
        if targets is None:
            return self.logits(hidden)
        return linear_cross_entropy(hidden.flatten(0, 1), self.head_weight, targets.flatten())

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of `targets` (B, T), ids shifted by one; -100 does not count."""
        loss: Tensor = self(ids, targets=targets)
        return loss

    def hidden(self, ids: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """Final normalised states (B, T, C) of `ids` (B, T), which are stored in the cache if there is one.

        Without `positions` the ids are the rows' first T tokens. With them (B,), the ids
        (B, 1) are each row's token at that position, and it sees what the cache holds
        before it.

        Raises:
            InputError: more tokens than the context or the cache holds.
        """
        T = ids.shape[1]
        room = min(self.config.block_size, cache.slots) if cache is not None else self.config.block_size
        if room < T:
            raise InputError(f"{T} tokens do not fit a context of {room}")
        mask = None
        if cache is not None and positions is not None:
            mask = cache.mask(positions)
            positions = positions.unsqueeze(1)  # (B, 1)
        else:
            positions = torch.arange(T, device=ids.device)
        x = self.embed(ids)
        rope = None
        if self.positions is not None:
            x = x + self.positions(positions)
        else:
            rope = rope_table(positions, self.config.head_dim, self.config.rope_theta)
        x = self.drop(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, cache, layer, positions, mask)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., V) of every token from states (..., C)."""
        return F.linear(hidden, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """(V, C); the embedding when it is tied."""
        return self.embed.weight if self.lm_head is None else self.lm_head.weight

    def num_parameters(self, *, trained: bool = False) -> int:
        """Numbers in the weights, or only those that are `trained`; a tied head counts once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trained)


def count_parameters(config: GPTConfig) -> int:
    """`GPT(config).num_parameters()` without building it."""
    c, inner = config.n_embd, config.n_inner
    q, kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    attention = 2 * c * q + 2 * c * kv
    embeddings = config.vocab_size * c * (1 if config.tie_embeddings else 2)
    if config.arch == "gpt2":
        block = attention + 4 * c + 2 * c * inner + inner + c + 4 * c  # matrices, biases, two LayerNorms
        return embeddings + config.block_size * c + config.n_layer * block + 2 * c
    block = attention + 3 * c * inner + 2 * c + (2 * config.head_dim if config.arch == "qwen3" else 0)
    return embeddings + config.n_layer * block + c

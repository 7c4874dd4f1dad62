"""The attention weights of our GPT, which its fused kernels never write down."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from genkit.text.models.fused import rotate
from genkit.text.models.gpt import GPT, Attention, Block, rope_table


def weights(layer: Attention, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k^T / sqrt(hd)) of causal self-attention, in fp32.

    Args:
        x: (B, T, C), what the layer is given.
        rope: as `rope_table` makes it; None where positions are learnt.

    Returns:
        (B, n_head, T, T): the share of each token (last) in what each other one (before) takes in.
    """
    B, T, _ = x.shape
    q = layer.q(x).view(B, T, -1, layer.head_dim)  # (B, T, n_head, hd)
    k = layer.k(x).view(B, T, -1, layer.head_dim)  # (B, T, n_kv, hd)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = layer.q_norm(q), layer.k_norm(k)
    if rope is not None:
        q, k = rotate(q, *rope), rotate(k, *rope)
    q, k = q.transpose(1, 2).float(), k.transpose(1, 2).float()  # (B, heads, T, hd)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q @ k.transpose(2, 3) * layer.head_dim**-0.5  # (B, n_head, T, T)
    future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
    shares: Tensor = scores.masked_fill(future, float("-inf")).softmax(-1)
    return shares


@torch.no_grad()
def attention_maps(model: GPT, ids: Tensor) -> Tensor:
    """Attention weights (n_layer, n_head, T, T) of a text (1, T)."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    x, rope = model.embed(ids), None
    if model.positions is not None:
        x = x + model.positions(positions)
    else:
        rope = rope_table(positions, model.config.head_dim, model.config.rope_theta)
    maps = []
    for number, module in enumerate(model.blocks):
        block = cast("Block", module)
        maps.append(weights(block.attn, block.norm1(x), rope)[0])
        x = block(x, rope, None, number, positions, None)
    return torch.stack(maps)

"""Structured pruning: feed-forward layers with fewer neurons, which any program runs faster.

A neuron's importance is the length of what it adds to the residual stream: its mean
square activation on some text, times the length of its column of `down`. Where there
is text, `down` is then fitted to give what it gave before, from the neurons that are
left, in closed form; layer after layer, so that each makes up for those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genkit.text.models.gpt import GPT, MLP, Block, rope_table

STEP = 32  # widths are multiples of it, as the groups of quantised rows are
_DAMPING = 1e-3  # of the mean square activation, so that the fit stays small where neurons are alike


def pruned_width(width: int, share: float) -> int:
    """How many of `width` neurons are left without `share` of them; a multiple of 32 where `width` is."""
    step = STEP if width % STEP == 0 else 1
    return max(step, round(width * (1 - share) / step) * step)


@torch.no_grad()
def narrowed(model: GPT, width: int, batches: Sequence[Tensor] = ()) -> GPT:
    """`model` with `width` neurons in each feed-forward layer; its other weights are shared.

    Args:
        batches: ids (B, T) to measure importance on; without any, the lengths of a neuron's
            weights stand for it.
    """
    config = dataclasses.replace(model.config, n_inner=width)
    with torch.device("meta"):
        narrow = GPT(config)
    for name, module in model.named_children():
        if name != "blocks":
            setattr(narrow, name, module)
    states = [model.embed(ids) + _positions(model, ids) for ids in batches]  # (B, T, C) each
    for block, smaller in zip(model.blocks, narrow.blocks, strict=True):
        assert isinstance(block, Block)
        assert isinstance(smaller, Block)
        moments = _moments(model, block, states) if states else None
        for name, module in block.named_children():
            if name != "mlp":
                setattr(smaller, name, module)
        _fill(smaller.mlp, block.mlp, moments)
        states = [_through(model, smaller, state) for state in states]
    return narrow.train(model.training)


def _positions(model: GPT, ids: Tensor) -> Tensor | float:
    return 0.0 if model.positions is None else model.positions(torch.arange(ids.shape[1], device=ids.device))


def _through(model: GPT, block: nn.Module, state: Tensor) -> Tensor:
    """The state (B, T, C) behind a block."""
    rope = None
    positions = torch.arange(state.shape[1], device=state.device)
    if model.positions is None:
        rope = rope_table(positions, model.config.head_dim, model.config.rope_theta)
    after: Tensor = block(state, rope, None, 0, positions, None)
    return after


def _moments(model: GPT, block: Block, states: Sequence[Tensor]) -> Tensor:
    """(n_inner, n_inner) mean products of the neurons' activations."""
    total = torch.zeros(model.config.n_inner, model.config.n_inner, device=states[0].device)
    rows = 0

    def add(module: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal rows
        flat = inputs[0].flatten(0, 1).float()  # (B T, n_inner)
        total.addmm_(flat.T, flat)
        rows += len(flat)

    hook = block.mlp.down.register_forward_pre_hook(add)
    for state in states:
        _through(model, block, state)
    hook.remove()
    return total / rows


def _fill(narrow: MLP, mlp: MLP, moments: Tensor | None) -> None:
    """Give `narrow` the neurons of `mlp` that matter most."""
    down, width = mlp.down.weight, narrow.up.out_features  # (C, n_inner)
    rows = {name: layer for name in ("gate", "up") if (layer := getattr(mlp, name)) is not None}
    importance = down.norm(dim=0)  # (n_inner,)
    if moments is not None:
        importance = importance * moments.diagonal().sqrt()
    else:
        for layer in rows.values():
            importance = importance * layer.weight.norm(dim=1)
    kept = importance.topk(width).indices.sort().values
    for name, layer in rows.items():
        _set(getattr(narrow, name), layer.weight[kept], None if layer.bias is None else layer.bias[kept])
    _set(narrow.down, down[:, kept] if moments is None else _fitted(down, kept, moments), mlp.down.bias)


def _fitted(down: Tensor, kept: Tensor, moments: Tensor) -> Tensor:
    """The columns (C, width) with which the kept neurons come nearest to what all of them gave."""
    if moments.device.type == "mps":  # which has no fp64
        return _fitted(down.cpu(), kept.cpu(), moments.cpu()).to(moments.device)
    inner, cross = moments[kept][:, kept].double(), moments[:, kept].double()
    damping = _DAMPING * inner.diagonal().mean()
    inner.diagonal().add_(damping)
    outer = down.double() @ cross + damping * down[:, kept]
    fitted: Tensor = torch.linalg.solve(inner, outer.T)  # (width, C)
    return fitted.T.to(down.dtype)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.contiguous().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())

"""Muon: momentum, orthogonalised, for the matrices inside a network (Keller Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from genkit.runtime.parallel import is_sharded, split_like, whole

# Quintic Newton-Schulz coefficients with the steepest slope at zero (Jordan et al. 2024).
_NS = (3.4445, -4.7750, 2.0315)
_AT_ONCE = 16  # matrices of a shape; small ones gain by it, and the copies of large ones are bounded


def orthogonalize(update: Tensor, dtype: torch.dtype = torch.float32, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, about, by Newton-Schulz iteration.

    Args:
        update: (..., R, C) matrices of any scale.
        dtype: what the products compute in; bfloat16 is exact enough where it is fast.
        steps: iterations; five bring singular values into about [0.7, 1.2].

    Source: Keller Jordan et al., "Muon: an optimizer for hidden layers", 2024.
    """
    x = update.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.size(-2) > x.size(-1)
    wide = (x.mT if tall else x).reshape(-1, *sorted(x.shape[-2:]))  # (N, min(R, C), max(R, C))
    a, b, c = _NS
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    orthogonal: Tensor = (wide.mT if tall else wide).reshape(update.shape)
    return orthogonal.to(update.dtype)


class Muon(Optimizer):
    """Momentum, orthogonalised: for the 2-D matrices inside a network.

    Args:
        params: matrices (R, C); embeddings and heads belong to AdamW.
        lr: step size; an update has spectral norm of about 1 times sqrt(max(1, R/C)).
        momentum: Nesterov momentum.
        weight_decay: decoupled, scaled by lr.
        dtype: of the Newton-Schulz iteration.

    `torch.optim.Muon` always iterates in bf16, which is several times slower than fp32
    on a CPU without bf16 instructions, and takes one matrix after the other.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for alike in _alike([p for p in group["params"] if p.grad is not None]):
                updates = self._orthogonal([self._nesterov(p, group["momentum"]) for p in alike])
                rows, columns = alike[0].shape
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(alike, updates, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)

    def _orthogonal(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """Of matrices of one shape; of those that are split over ranks, at most one for each rank.

        Each rank gathers all of these, does its own and sends it to the others.
        """
        if not is_sharded(updates[0]):
            return list(orthogonalize(torch.stack(list(updates)), self._dtype).unbind())
        rank = dist.get_rank()
        gathered = [whole(update) for update in updates]
        if rank < len(gathered):
            gathered[rank] = orthogonalize(gathered[rank], self._dtype).contiguous()
        for source, matrix in enumerate(gathered):
            dist.broadcast(matrix, src=source)
        return [split_like(matrix, update) for matrix, update in zip(gathered, updates, strict=True)]


def _alike(matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of equal shape, so many as go through the iteration together."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        by_shape.setdefault(matrix.shape, []).append(matrix)
    for group in by_shape.values():
        together = dist.get_world_size() if is_sharded(group[0]) else _AT_ONCE
        for start in range(0, len(group), together):
            yield group[start : start + together]

"""Parameter groups, Muon, and the averaged generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genkit.runtime.parallel import is_sharded, split_like, whole

# Quintic Newton-Schulz coefficients with the steepest slope at zero (Jordan et al. 2024).
_NS = (3.4445, -4.7750, 2.0315)


def orthogonalize(update: Tensor, dtype: torch.dtype = torch.float32, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, about, by Newton-Schulz iteration.

    Args:
        update: (R, C) matrix of any scale.
        dtype: what the products compute in; bfloat16 is exact enough where it is fast.
        steps: iterations; five bring singular values into about [0.7, 1.2].

    Source: Keller Jordan et al., "Muon: an optimizer for hidden layers", 2024.
    """
    x = update.to(dtype)
    x = x / (x.norm() + 1e-7)
    wide = x if x.size(0) <= x.size(1) else x.T
    a, b, c = _NS
    for _ in range(steps):
        gram = wide @ wide.T  # (R, R)
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    orthogonal: Tensor = wide if x.size(0) <= x.size(1) else wide.T
    return orthogonal.to(update.dtype)


def orthogonalize_each(updates: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """`orthogonalize` for one matrix, or for at most one a rank of those that are split over ranks.

    Of these, each rank gathers all, does its own and sends it to the others.
    """
    if not is_sharded(updates[0]):
        return [orthogonalize(update, dtype) for update in updates]
    rank = dist.get_rank()
    gathered = [whole(update) for update in updates]
    if rank < len(gathered):
        gathered[rank] = orthogonalize(gathered[rank], dtype).contiguous()
    for source, matrix in enumerate(gathered):
        dist.broadcast(matrix, src=source)
    return [split_like(matrix, update) for matrix, update in zip(gathered, updates, strict=True)]


class Muon(Optimizer):
    """Momentum, orthogonalised: for the 2-D matrices inside a network.

    Args:
        params: matrices (R, C); embeddings and heads belong to AdamW.
        lr: step size; an update has spectral norm of about 1 times sqrt(max(1, R/C)).
        momentum: Nesterov momentum.
        weight_decay: decoupled, scaled by lr.
        dtype: of the Newton-Schulz iteration.

    Source: Keller Jordan et al. 2024. `torch.optim.Muon` always iterates in bf16,
    which is several times slower than fp32 on a CPU without bf16 instructions.
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
            matrices = [p for p in group["params"] if p.grad is not None]
            together = dist.get_world_size() if matrices and is_sharded(matrices[0]) else 1
            for start in range(0, len(matrices), together):
                some = matrices[start : start + together]
                updates = orthogonalize_each([self._nesterov(p, group["momentum"]) for p in some], self._dtype)
                for p, update in zip(some, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * max(1.0, p.size(0) / p.size(1)) ** 0.5)
        return loss

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)


def text_optimizers(
    model: nn.Module,
    *,
    optimizer: str,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    dtype: torch.dtype = torch.float32,
) -> dict[str, Optimizer]:
    """AdamW for all of a GPT, or Muon (in `dtype`) for its hidden matrices and AdamW for the rest.

    What is frozen is left out. Matrices decay; norms, biases and embeddings do not. Every
    group remembers its `peak_lr` for `set_lr`.
    """
    hidden, tables, vectors = [], [], []
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim < 2:
            vectors.append(p)
        elif id(p) in embeddings or "lm_head" in name:
            tables.append(p)
        else:
            hidden.append(p)
    adam_matrices = [] if optimizer == "muon" else hidden
    groups = [
        {"params": adam_matrices, "weight_decay": weight_decay},
        {"params": tables + vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    found: dict[str, Optimizer] = {}
    if groups:  # adapters trained by Muon leave nothing
        found["adamw"] = AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=fused)
    if optimizer == "muon" and hidden:
        found["muon"] = Muon(hidden, lr=muon_lr, weight_decay=weight_decay, dtype=dtype)
    for each in found.values():
        for group in each.param_groups:
            group["peak_lr"] = group["lr"]
    return found


def set_lr(optimizers: Mapping[str, Optimizer], scale: float) -> None:
    """Set every group to `scale` times its peak."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale


def ema_decay(half_life: float, batch: int, seen: int) -> float:
    """Decay of an average over `half_life` images, after `seen` images, at `batch` a step.

    The half-life is at most a twentieth of what was seen, so that early in a run
    the average follows instead of remembering the random start (Karras et al. 2020).
    """
    ramped = min(half_life, seen * 0.05)
    return 0.5 ** (batch / ramped) if ramped > 0 else 0.0


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average's parameters towards the model's; copy the buffers."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)


def clip_gradients(
    optimizers: Mapping[str, Optimizer],
    parameters: Iterable[Tensor],
    *,
    scaler: torch.amp.GradScaler | None,
    largest: float,
) -> Tensor:
    """Scale the gradients down to a norm of `largest` (0: only measure); returns the norm before, a scalar."""
    if scaler is not None:
        for optimizer in optimizers.values():
            scaler.unscale_(optimizer)
    if largest > 0:
        return whole(nn.utils.clip_grad_norm_(parameters, largest))
    return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def step_optimizers(optimizers: Mapping[str, Optimizer], *, scaler: torch.amp.GradScaler | None) -> None:
    """Step every optimizer and clear its gradients; the caller updates the scaler, once an iteration."""
    for optimizer in optimizers.values():
        if scaler is not None:
            scaler.step(optimizer)
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

"""Parameter groups, learning rates, clipping, and the averaged generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genkit.runtime.parallel import whole
from genkit.training.muon import Muon


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
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    total = whole(norm)
    # on a CPU, where looking costs nothing, gradients that are small enough are not multiplied by 1
    small = total.device.type == "cpu" and bool(total + 1e-6 <= largest)
    if largest > 0 and not small:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return total


def step_optimizers(optimizers: Mapping[str, Optimizer], *, scaler: torch.amp.GradScaler | None) -> None:
    """Step every optimizer and clear its gradients; the caller updates the scaler, once an iteration."""
    for optimizer in optimizers.values():
        if scaler is not None:
            scaler.step(optimizer)
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

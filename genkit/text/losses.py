"""Cross-entropy of a language-model head, without the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100  # a target that does not count, as in torch and transformers
# Logits held at a time: what stays in a CPU's cache or keeps an accelerator busy,
# and enough rows to pay for reading a large head.
CPU_ELEMENTS, ACCELERATOR_ELEMENTS = 1 << 21, 1 << 27
MIN_ROWS = 512
MAX_FP16_ROWS = 1024  # their sum stays in fp16's range unless |hidden| averages 64


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(hidden @ weight.T)[target] over the targets that are not -100.

    The rows go through in chunks, and a chunk's gradient is taken while its
    logits are at hand, so that memory does not grow with rows x vocabulary
    (the idea of Wijmans et al. 2024, "Cut Your Losses", and of Liger Kernel).

    Args:
        hidden: (N, C).
        weight: (V, C), the head.
        targets: (N,) int64.

    Returns:
        A scalar in fp32; nan when every target is ignored.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with_grad = torch.is_grad_enabled()
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, with_grad, with_grad and weight.requires_grad)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, with_grad: bool, trains_weight: bool
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        count = (targets != IGNORE).sum()
        grad_hidden = torch.empty_like(hidden) if with_grad else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if trains_weight else None
        elements = CPU_ELEMENTS if hidden.device.type == "cpu" else ACCELERATOR_ELEMENTS
        rows = max(MIN_ROWS, elements // weight.shape[0])
        if hidden.dtype == torch.float16:
            rows = min(rows, MAX_FP16_ROWS)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                h, y = hidden[start : start + rows], targets[start : start + rows]
                kept = y != IGNORE
                y = y.where(kept, 0).unsqueeze(1)  # (R, 1)
                logits = (h @ weight.T).float()  # (R, V)
                peak = logits.amax(1, keepdim=True)
                target_logit = logits.gather(1, y) - peak
                exp = logits.sub_(peak).exp_()
                norm = exp.sum(1, keepdim=True)
                total += (norm.log() - target_logit).squeeze(1).where(kept, 0).sum()
                if grad_hidden is None:
                    continue
                # softmax - one-hot, in place of the logits; divided by the count only in
                # backward, as fp16 would lose such small numbers before a scaler's factor
                scale = kept.unsqueeze(1).float()
                grad = exp.mul_(scale / norm).scatter_add_(1, y, -scale).to(h.dtype)
                torch.mm(grad, weight, out=grad_hidden[start : start + rows])
                if grad_weight is None:  # a frozen head costs a third less
                    continue
                if grad.dtype == torch.float32:
                    grad_weight.addmm_(grad.T, h)
                else:
                    grad_weight += grad.T @ h
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden, grad_weight, count.clamp(min=1))  # nothing counts: the gradient is 0
            ctx.dtype = weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, count = ctx.saved_tensors
        scale = grad_output / count  # fp32
        of_weight = None if grad_weight is None else (grad_weight * scale).to(ctx.dtype)
        return (grad_hidden.float() * scale).to(ctx.dtype), of_weight, None, None, None

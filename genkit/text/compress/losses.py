"""Learning from a teacher's probabilities, without the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genkit.text.losses import IGNORE

_ELEMENTS, _FEWEST_ROWS = 1 << 21, 256  # logits held at a time, and rows at least


def distillation_loss(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    targets: Tensor,
    share: float,
) -> Tensor:
    """share KL(p || q) + (1 - share) (-log q[target]), the mean over the targets that are not -100.

    q = softmax(hidden @ weight.T), p likewise of the teacher (Hinton, Vinyals and Dean 2015,
    at temperature 1). Rows go through in chunks, and a chunk's gradient is taken while
    its logits are at hand, so that memory does not grow with rows x vocabulary.

    Args:
        hidden: (N, C).
        weight: (V, C), the student's head.
        teacher_hidden: (N, C'), without a gradient; teacher_weight: (V, C').
        targets: (N,) int64.
        share: of the teacher, 0 to 1.

    Returns:
        A scalar in fp32; nan when every target is ignored.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        teacher_hidden, teacher_weight = teacher_hidden.to(dtype), teacher_weight.to(dtype)
    loss: Tensor = _Distillation.apply(hidden, weight, teacher_hidden, teacher_weight, targets, share)
    return loss


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        targets: Tensor,
        share: float,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        count = (targets != IGNORE).sum()
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows = max(_FEWEST_ROWS, _ELEMENTS // len(weight))
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            kept = (targets[here] != IGNORE).unsqueeze(1)  # (R, 1)
            y = targets[here].where(kept[:, 0], 0).unsqueeze(1)
            log_q = (hidden[here] @ weight.T).float().log_softmax(1)  # (R, V)
            log_p = (teacher_hidden[here] @ teacher_weight.T).float().log_softmax(1)
            p = log_p.exp()
            divergence = p.mul(log_p.sub_(log_q)).sum(1, keepdim=True)
            loss = share * divergence - (1 - share) * log_q.gather(1, y)
            total += loss.where(kept, 0).sum()
            # q less the mixture of p and the target, of rows that count
            grad = log_q.exp_().sub_(p, alpha=share).scatter_add_(1, y, p.new_full(y.shape, share - 1))
            grad = grad.mul_(kept).to(hidden.dtype)
            torch.mm(grad, weight, out=grad_hidden[here])
            grad_weight += grad.T @ hidden[here]
        ctx.save_for_backward(grad_hidden, grad_weight, count.clamp(min=1))
        ctx.dtype = weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, count = ctx.saved_tensors
        scale = grad_output / count  # fp32
        return (
            (grad_hidden.float() * scale).to(ctx.dtype), (grad_weight * scale).to(ctx.dtype), None, None, None, None,
        )  # fmt: skip

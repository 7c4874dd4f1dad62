"""RMSNorm and rotary positions as one operation each, where gradients are wanted and nothing compiles.

Torch differentiates both through a dozen elementwise operations, which take a third
of the training step of a small model on a CPU. Written out, forward and backward
read and write the activations as few times as eager torch allows. What is computed
is the same; only the order of rounding differs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension (Zhang and Sennrich 2019).

    Args:
        x: (..., C); gain: (C,), which follows the dtype of x.
    """
    if x.device.type != "cpu" or _left_to_torch():
        return F.rms_norm(x, gain.shape, gain.to(x.dtype), eps)
    y: Tensor = _RMSNorm.apply(x, gain, eps)
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of x (B, T, heads, head_dim) by angles (..., T, 1, head_dim / 2)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if _left_to_torch():
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    y: Tensor = _Rotation.apply(x, cos, sin)
    return y


def _left_to_torch() -> bool:
    """A compiler fuses by itself, and sampling wants each row's bits to be those it has alone."""
    return torch.compiler.is_compiling() or not torch.is_grad_enabled()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = (norm.square_() / x.shape[-1] + eps).rsqrt_().to(x.dtype)  # (..., 1)
        normed = x * scale
        ctx.save_for_backward(normed, scale, gain)
        y: Tensor = normed * gain.to(x.dtype)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, gain = ctx.saved_tensors
        C = gain.shape[0]
        product = grad * normed
        rows = product.reshape(-1, C)  # (N, C)
        grad_gain = rows.sum(0, dtype=gain.dtype)
        gain = gain.to(grad.dtype)
        mean = torch.mv(rows, gain).view(scale.shape).div_(-C)  # of grad * gain * normed, negated
        grad_x = torch.mul(grad, gain, out=product).addcmul_(normed, mean).mul_(scale)
        return grad_x, grad_gain, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1), None, None  # the way back is by the opposite angle


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (a, b), (ya, yb) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    torch.mul(a, cos, out=ya).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=yb).addcmul_(a, sin, value=sign)
    return y

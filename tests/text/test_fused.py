"""Operations written out against what torch makes of the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkit.text.models.fused import rms_norm, rotate
from genkit.text.models.gpt import rope_table


def plain_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 7, 3, 6), (1, 1, 4)])
def test_norm_and_its_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    gain = torch.randn(shape[-1], dtype=torch.float64)
    upstream = torch.randn(shape, dtype=torch.float64)
    found = []
    for norm in (rms_norm, plain_norm):
        a, g = x.clone().requires_grad_(), gain.clone().requires_grad_()
        y = norm(a, g, 1e-6)
        y.backward(upstream)
        assert a.grad is not None
        assert g.grad is not None
        found.append((y.detach(), a.grad, g.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_norm_takes_any_strides() -> None:
    torch.manual_seed(0)
    gain = torch.randn(8, requires_grad=True)
    upstream = torch.randn(5, 3, 8).transpose(0, 1)
    x = torch.randn(5, 3, 8).transpose(0, 1).requires_grad_()
    for mine, grad in ((x, upstream.contiguous()), (x.detach().contiguous().requires_grad_(), upstream)):
        plain = mine.detach().clone().requires_grad_()
        rms_norm(mine, gain, 1e-6).backward(grad)
        plain_norm(plain, gain, 1e-6).backward(grad)
        assert plain.grad is not None
        torch.testing.assert_close(mine.grad, plain.grad)


def test_norm_of_a_view_and_of_zeros() -> None:
    x = torch.randn(4, 6, 8)[:, ::2].requires_grad_()
    gain = torch.ones(8, requires_grad=True)
    y = rms_norm(x, gain, 1e-6)
    y.sum().backward()
    torch.testing.assert_close(y, plain_norm(x, gain, 1e-6))
    zeros = torch.zeros(2, 8, requires_grad=True)
    rms_norm(zeros, gain, 1e-6).sum().backward()
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()


def test_rotation_and_its_gradient_are_exact() -> None:
    torch.manual_seed(0)
    table = [t.double() for t in rope_table(torch.arange(7), 8, 10_000.0)]
    upstream = torch.randn(2, 7, 3, 8, dtype=torch.float64)
    x = torch.randn(2, 7, 3, 8, dtype=torch.float64)
    found = []
    for turn in (rotate, plain_rotation):
        a = x.clone().requires_grad_()
        y = turn(a, *table)
        y.backward(upstream)
        found.append((y.detach(), a.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0][0].norm(), x.norm())  # a rotation keeps lengths


def test_without_gradients_torch_does_it() -> None:
    x, gain = torch.randn(3, 4, 8), torch.randn(8)
    cos, sin = rope_table(torch.arange(3), 8, 10_000.0)
    with torch.no_grad():
        assert torch.equal(rms_norm(x, gain, 1e-6), torch.nn.functional.rms_norm(x, (8,), gain, 1e-6))
        assert torch.equal(rotate(x.unsqueeze(0), cos, sin), plain_rotation(x.unsqueeze(0), cos, sin))


def test_bf16_stays_bf16_and_near() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 64).bfloat16().requires_grad_()
    gain = torch.randn(64, requires_grad=True)
    y = rms_norm(x, gain, 1e-6)
    y.sum().backward()
    assert x.grad is not None
    assert gain.grad is not None
    assert (y.dtype, x.grad.dtype, gain.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert (y.float() - plain_norm(x.float(), gain, 1e-6)).abs().max() < 0.03 * y.abs().max()

"""Muon and its iteration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genkit.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_newton_schulz_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3
    # the directions stay: the result is a polynomial in the matrix
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalize(matrix) @ vh.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4


def test_muon_step_is_momentum_orthogonalised_with_decay() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(12, 6))
    start, grad = p.detach().clone(), torch.randn(12, 6)
    optimizer = Muon([p], lr=0.1, momentum=0.9, weight_decay=0.5)
    p.grad = grad
    optimizer.step()
    momentum = 0.1 * grad
    expected = start * (1 - 0.1 * 0.5) - 0.1 * 2**0.5 * orthogonalize(0.1 * grad + 0.9 * momentum)
    torch.testing.assert_close(p.detach(), expected)


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_matrices_together_come_out_as_alone(shape: tuple[int, int]) -> None:
    together = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    for matrix, found in zip(together, orthogonalize(together), strict=True):
        torch.testing.assert_close(found, orthogonalize(matrix), rtol=0, atol=1e-5)


def test_many_matrices_step_as_one_by_one() -> None:
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 16), (8, 8), *[(4, 4)] * 20]  # more of a shape than go together
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    alone = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = [Muon(ours, lr=0.1, weight_decay=0.1), *(Muon([p], lr=0.1, weight_decay=0.1) for p in alone)]
    for _ in range(3):
        for p, q in zip(ours, alone, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


def test_a_matrix_without_a_gradient_stays() -> None:
    moved, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moved.grad = torch.eye(4)
    Muon([moved, still], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moved, still)

"""The distillation loss equals its definition, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import genkit.text.compress.losses as losses
from genkit.text.compress.losses import distillation_loss


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rows", [3, 100])
def test_it_is_what_it_says(share: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_FEWEST_ROWS", rows)
    monkeypatch.setattr(losses, "_ELEMENTS", 0)
    torch.manual_seed(0)
    hidden = torch.randn(10, 6, requires_grad=True)
    weight = torch.randn(7, 6, requires_grad=True)
    teacher_hidden, teacher_weight = torch.randn(10, 9), torch.randn(7, 9)
    targets = torch.randint(0, 7, (10,))
    targets[2] = targets[8] = -100
    kept = targets != -100

    logits = hidden @ weight.T
    p = (teacher_hidden @ teacher_weight.T).softmax(-1)
    divergence = F.kl_div(logits.log_softmax(-1), p, reduction="none").sum(-1)[kept].mean()
    expected = share * divergence + (1 - share) * F.cross_entropy(logits, targets)
    gradients = torch.autograd.grad(3 * expected, (hidden, weight))

    found = distillation_loss(hidden, weight, teacher_hidden, teacher_weight, targets, share)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(3 * found, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_its_teacher_learns_nothing() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(6, 4)
    loss = distillation_loss(hidden, weight, hidden.detach(), weight, torch.arange(5), 1.0)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-7

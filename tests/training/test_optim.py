import pytest
import torch
from torch import nn

from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT
from genkit.training.optim import (
    clip_gradients,
    ema_decay,
    set_lr,
    step_optimizers,
    text_optimizers,
    update_ema,
)


def tiny() -> GPT:
    return GPT(
        GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_kv_head=2, n_embd=8, head_dim=4, n_inner=16)
    )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(kind: str) -> None:
    model = tiny()
    found = text_optimizers(model, optimizer=kind, lr=1e-3, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))
    groups = [g for o in found.values() for g in o.param_groups]
    seen = [id(p) for g in groups for p in g["params"]]
    assert sorted(seen) == sorted(id(p) for p in model.parameters())
    for group in groups:
        for p in group["params"]:
            hidden = p.ndim == 2 and p is not model.embed.weight
            assert group["weight_decay"] == (0.1 if hidden else 0.0)
            assert (group["peak_lr"] == 0.02) == (kind == "muon" and hidden)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_what_is_frozen_has_no_optimizer(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].requires_grad_(False)
    made = text_optimizers(model, optimizer=kind, lr=1e-3, muon_lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    assert list(made) == [kind]
    (group,) = made[kind].param_groups
    assert [id(p) for p in group["params"]] == [id(model[1].weight)]


def test_set_lr_scales_every_peak() -> None:
    found = text_optimizers(tiny(), optimizer="muon", lr=1e-3, muon_lr=0.02, weight_decay=0.1, betas=(0.9, 0.95))
    set_lr(found, 0.5)
    assert {g["lr"] for o in found.values() for g in o.param_groups} == {5e-4, 0.01}


def test_clipping_bounds_the_norm_and_gradients_are_cleared() -> None:
    p = nn.Parameter(torch.zeros(4))
    p.grad = torch.full((4,), 10.0)
    sgd = {"sgd": torch.optim.SGD([p], lr=1.0)}
    assert clip_gradients(sgd, [p], scaler=None, largest=0.0) == pytest.approx(20.0)
    assert clip_gradients(sgd, [p], scaler=None, largest=1.0) == pytest.approx(20.0)
    step_optimizers(sgd, scaler=None)
    assert p.detach().norm() == pytest.approx(1.0, rel=1e-4)
    assert p.grad is None


def test_ema_half_life_and_ramp() -> None:
    assert ema_decay(1000, 100, 10**9) == pytest.approx(0.5**0.1)
    assert ema_decay(1000, 100, 2000) == pytest.approx(0.5)  # half-life ramped to 100 images
    assert ema_decay(1000, 100, 0) == 0.0
    average, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(5.0)
    update_ema(average, model, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]

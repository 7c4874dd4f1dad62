"""Pruning leaves what matters, and students take over what fits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.text.compress.prune import narrowed, pruned_width
from genkit.text.compress.student import make_student, student_shape
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT, count_parameters

SHAPE = GPTConfig(
    vocab_size=32, block_size=16, n_layer=4, n_head=2, n_kv_head=2, n_embd=32, head_dim=16, n_inner=96, eos_id=0
)
IDS = torch.arange(32).reshape(2, 16)


def model_of(arch: str = "qwen3") -> GPT:
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(SHAPE, arch=arch)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3)
    return model


@torch.no_grad()
def difference(a: GPT, b: GPT) -> float:
    return (a(IDS) - b(IDS)).abs().max().item()


def kill(model: GPT, dead: Tensor) -> None:
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.down.weight[:, dead] = 0


@pytest.mark.parametrize("arch", ["qwen3", "gpt2"])
@pytest.mark.parametrize("measured", [False, True])
def test_neurons_that_do_nothing_go_first(arch: str, measured: bool) -> None:
    model = model_of(arch)
    kill(model, torch.arange(0, 96, 3))
    pruned = narrowed(model, 64, [IDS] if measured else [])
    assert pruned.config.n_inner == 64
    assert difference(pruned, model) < (1e-2 if measured else 1e-4)  # the fit is damped


def test_neurons_that_are_twice_there_are_made_up_for() -> None:
    model = model_of()
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.mlp.gate, block.mlp.up):
                layer.weight[64:] = layer.weight[:32]
            block.mlp.down.weight[:, 64:] *= 0.1  # these are left out
    batches = [torch.randint(0, 32, (8, 16)) for _ in range(4)]
    blind, fitted = narrowed(model, 64), narrowed(model, 64, batches)
    assert difference(fitted, model) < 0.5 * difference(blind, model)


def test_widths_are_whole_groups() -> None:
    assert pruned_width(704, 0.3) == 480
    assert pruned_width(704, 0.99) == 32
    assert pruned_width(100, 0.25) == 75


def test_half_is_at_most_half() -> None:
    large = dataclasses.replace(SHAPE, n_layer=6, n_embd=64, n_inner=192, head_dim=32)
    shape = student_shape(large, "half")
    assert count_parameters(shape) <= count_parameters(large) // 2
    assert count_parameters(dataclasses.replace(shape, n_inner=shape.n_inner + 32)) > count_parameters(large) // 2
    assert shape.n_layer == 3
    with pytest.raises(UsageError, match="embedding and head alone are more than half"):
        student_shape(dataclasses.replace(SHAPE, vocab_size=1 << 14, n_layer=1), "half")


def test_a_student_has_its_teacher_s_blocks() -> None:
    teacher = model_of()
    student = make_student(teacher, dataclasses.replace(SHAPE, n_layer=2), [])
    assert student.blocks[0] is teacher.blocks[0]
    assert student.blocks[1] is teacher.blocks[3]
    assert student.embed is teacher.embed


def test_a_preset_that_is_not_smaller_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--distill-into nano has .* parameters, the model"):
        student_shape(SHAPE, "nano")
    wide = dataclasses.replace(SHAPE, n_embd=512, n_layer=8, n_inner=1376, head_dim=64, n_head=8, n_kv_head=8)
    shape = student_shape(wide, "tiny")
    assert (shape.n_embd, shape.n_layer, shape.vocab_size, shape.block_size) == (128, 4, 32, 16)

"""The smaller model that learns from a larger one: its shape, and what it takes over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.text.compress.prune import STEP, narrowed
from genkit.text.compressconfig import HALF
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT, count_parameters
from genkit.text.shape import model_shape
from genkit.text.trainconfig import PRESETS, TextTrainConfig


def student_shape(teacher: GPTConfig, into: str) -> GPTConfig:
    """A shape with the teacher's vocabulary, context and layout of blocks.

    Args:
        into: a preset, or `half`: at most half of the parameters, with half of the blocks or
            fewer and feed-forward layers as wide as fits.

    Raises:
        UsageError: it would not be smaller.
    """
    if into == HALF:
        return _half(teacher)
    preset = PRESETS[into]
    if preset.n_embd == teacher.n_embd:  # then blocks can be taken over
        shape = dataclasses.replace(teacher, n_layer=min(preset.n_layer, teacher.n_layer))
    else:
        config = TextTrainConfig(
            preset=into, arch=teacher.arch, block_size=teacher.block_size, tie_embeddings=teacher.tie_embeddings
        )
        shape = model_shape(config, vocab_size=teacher.vocab_size, eos_id=teacher.eos_id)
        shape = dataclasses.replace(shape, bos_id=teacher.bos_id)
    before, after = count_parameters(teacher), count_parameters(shape)
    if after >= before:
        raise UsageError(
            f"--distill-into {into} has {after:,} parameters, the model {before:,}", "use a smaller preset, or half"
        )
    return shape


def _half(teacher: GPTConfig) -> GPTConfig:
    """Half of the blocks, or fewer where else feed-forward layers would be narrower than the model."""
    most = count_parameters(teacher) // 2
    step = STEP if teacher.n_inner % STEP == 0 else 1
    for n_layer in range(-(-teacher.n_layer // 2), 0, -1):
        for n_inner in range(teacher.n_inner, min(teacher.n_embd, teacher.n_inner) - 1, -step):
            shape = dataclasses.replace(teacher, n_layer=n_layer, n_inner=n_inner)
            if count_parameters(shape) <= most:
                return shape
    raise UsageError(
        "--distill-into half: embedding and head alone are more than half of the model",
        f"use one of the presets {', '.join(PRESETS)}",
    )


def make_student(teacher: GPT, shape: GPTConfig, batches: Sequence[Tensor]) -> GPT:
    """A model of that shape: the teacher's embedding, head and evenly spaced blocks where the width is the same.

    The first and the last block are among them. Feed-forward layers are cut as
    `prune.narrowed` does. A model of another width is drawn at random.

    Args:
        batches: ids (B, T) to measure the importance of neurons on.
    """
    if shape != dataclasses.replace(teacher.config, n_layer=shape.n_layer, n_inner=shape.n_inner):
        return GPT(shape)
    places = torch.linspace(0, teacher.config.n_layer - 1, shape.n_layer).round().int().tolist()
    with torch.device("meta"):
        student = GPT(dataclasses.replace(teacher.config, n_layer=shape.n_layer))
    for name, module in teacher.named_children():
        if name != "blocks":
            setattr(student, name, module)
    for place, source in enumerate(places):
        student.blocks[place] = teacher.blocks[source]
    return narrowed(student, shape.n_inner, batches) if shape.n_inner < teacher.config.n_inner else student

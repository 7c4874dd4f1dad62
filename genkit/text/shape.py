"""Which model a training run builds: the preset, what overrides it."""

from __future__ import annotations

from genkit.errors import UsageError
from genkit.text.config import GPTConfig
from genkit.text.trainconfig import HEAD_DIM, PRESETS, TextTrainConfig

_LARGEST_UNTIED = 1 << 14  # tokens; a head of its own costs memory, not time


def model_shape(config: TextTrainConfig, *, vocab_size: int, eos_id: int | None) -> GPTConfig:
    """The model that `config`, whose preset is settled, asks for.

    Args:
        vocab_size, eos_id: the tokenizer's.

    Raises:
        UsageError: heads and width do not fit one another.
    """
    preset = PRESETS[config.preset]
    n_embd = config.n_embd or preset.n_embd
    n_head = config.n_head or max(1, n_embd // HEAD_DIM)
    n_kv_head = config.n_kv_head or n_head
    if n_embd % n_head or (n_embd // n_head) % 2:
        raise UsageError(
            f"--n-head {n_head} does not divide --n-embd {n_embd} into heads of even width",
            f"use --n-embd {2 * n_head * max(1, round(n_embd / (2 * n_head)))}",
        )
    if n_head % n_kv_head or (config.arch == "gpt2" and n_kv_head != n_head):
        raise UsageError(
            f"--n-kv-head {n_kv_head} does not fit {n_head} heads of {config.arch}",
            f"use --n-kv-head {n_head}",
        )
    swiglu = -(-8 * n_embd // 3 // 32) * 32  # as many parameters as an MLP four times as wide
    return GPTConfig(
        arch=config.arch,
        vocab_size=vocab_size,
        block_size=config.block_size or preset.block_size,
        n_layer=config.n_layer or preset.n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        head_dim=n_embd // n_head,
        n_inner=4 * n_embd if config.arch == "gpt2" else swiglu,
        norm_eps=1e-5 if config.arch == "gpt2" else 1e-6,
        tie_embeddings=vocab_size > _LARGEST_UNTIED if config.tie_embeddings is None else config.tie_embeddings,
        bos_id=eos_id,
        eos_id=eos_id,
    )


def shape_line(shape: GPTConfig, parameters: int, trained: int) -> str:
    """`qwen3, 6 layers x 256, 4 heads, context 256: 5.87 M parameters, 0.12 M trained`"""
    part = f", {trained / 1e6:.2f} M trained" if trained >= 10_000 else f", {trained:,} trained"
    return (
        f"{shape.arch}, {shape.n_layer} layers x {shape.n_embd}, {shape.n_head} heads, "
        f"context {shape.block_size}: {parameters / 1e6:.2f} M parameters{part if trained < parameters else ''}"
    )

"""Which model a training run builds: the preset, what overrides it, what `auto` means."""

from __future__ import annotations

from genkit.errors import UsageError
from genkit.text.config import HEAD_DIM, PRESETS, GPTConfig, TextTrainConfig

_SMALL_CORPUS = 4_000_000  # tokens; below it a wider model only memorises sooner


def auto_preset(tokens: int, device: str) -> str:
    """The preset for a corpus of `tokens` on `device`: what the machine trains well in minutes."""
    if device == "cpu":
        return "tiny" if tokens < _SMALL_CORPUS else "nano"
    if tokens < _SMALL_CORPUS:
        return "baby"
    return "mini" if tokens < 100 * _SMALL_CORPUS else "small"


def model_shape(config: TextTrainConfig, *, vocab_size: int, eos_id: int | None, tokens: int, device: str) -> GPTConfig:
    """The model that `config` asks for.

    Args:
        vocab_size, eos_id: the tokenizer's.
        tokens: of the training data, for `--preset auto`.
        device: "cpu", "cuda:0" ..., for the same.

    Raises:
        UsageError: heads and width do not fit one another.
    """
    preset = PRESETS[auto_preset(tokens, device) if config.preset == "auto" else config.preset]
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
        tie_embeddings=config.tie_embeddings,
        bos_id=eos_id,
        eos_id=eos_id,
    )


def shape_line(shape: GPTConfig, parameters: int, trained: int) -> str:
    """`qwen3, 6 layers x 256, 4 heads, context 256: 5.87 M parameters, 0.12 M trained`"""
    part = "" if trained == parameters else f", {trained / 1e6:.2f} M trained"
    return (
        f"{shape.arch}, {shape.n_layer} layers x {shape.n_embd}, {shape.n_head} heads, "
        f"context {shape.block_size}: {parameters / 1e6:.2f} M parameters{part}"
    )

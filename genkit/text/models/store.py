"""A text model on disk: the directory that `transformers` reads, and genkit too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG as CONFIG
from genkit.library import GENERATION as GENERATION
from genkit.library import WEIGHTS as WEIGHTS
from genkit.library import quantization, weight_files
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT
from genkit.text.models.layout import from_hf_state, to_hf_state
from genkit.text.tokenizer import Tokenizer
from genkit.training.weights import load_tensors


def read_config(folder: Path) -> GPTConfig:
    """The shape of the model in `folder`.

    Raises:
        InputError: no `config.json`, or one of a model that genkit does not build.
    """
    return GPTConfig.from_hf(read_json(folder / CONFIG))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of `model.safetensors`, or of the shards that the index names; quantised ones as their fp32 values.

    Raises:
        InputError: missing, corrupt or unsafe files, or weights quantised in a way that genkit does not read.
    """
    if quantization(folder):
        from genkit.text.packed import open_weights

        return {name: torch.tensor(weight.values()) for name, weight in open_weights(folder).items()}
    return {name: t for path in weight_files(folder) for name, t in load_tensors(path).items()}


def load_model(folder: Path, *, dropout: float = 0.0) -> GPT:
    """Build the model in `folder` and load its weights, on the CPU in fp32.

    Raises:
        InputError: as `read_config` and `read_weights`, or tensors that do not fit the shape.
    """
    return from_hf_state(read_config(folder), read_weights(folder), dropout=dropout)


def check_usable(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Refuse damaged weights, and a tokenizer that can write tokens which the model does not know.

    Raises:
        InputError: a weight is not finite, or the tokenizer is larger than the model.
    """
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise InputError(f"{folder / WEIGHTS} holds numbers that are not finite", "use another model")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
        )


def model_files(model: GPT, generation: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """`config.json`, `generation_config.json` and the tensors of `model.safetensors`."""
    ids = {"bos_token_id": model.config.bos_id, "eos_token_id": model.config.eos_id}
    return model.config.to_hf(), {**ids, **generation}, to_hf_state(model)

"""Quantisation: a model directory with few bits a number, for genkit, transformers and vLLM. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit import library
from genkit.errors import InputError
from genkit.files import atomic_write, read_json
from genkit.tensors import layout
from genkit.text.packed import PACKED, SCALE, SHAPE, Weight, open_weights, pack, quantize
from genkit.text.quantized import BITS, GROUP, quantization_config

_NAMES = {"<f2": "F16", "<f4": "F32", "<i4": "I32", "<i8": "I64"}


def quantize_model(source: Path, folder: Path, precision: str) -> dict[str, Any]:
    """Write the weights of the model in `source` to `folder`, those of its layers in few bits.

    Embedding and head stay in fp16, gains in fp32, as is usual: they are a small part of
    a large model, and the part that rounding harms most. So does a matrix whose rows are
    not made of groups of 32.

    Args:
        precision: `int8` or `int4`.

    Returns:
        the model's `config.json`.

    Raises:
        InputError: weights that are damaged or too large for fp16, or gpt2, whose layers are no linear
            ones in transformers.
    """
    config = read_json(source / library.CONFIG)
    if config.get("model_type") == "gpt2":
        raise InputError(
            "the layers of gpt2 are not linear ones in transformers, and compressed-tensors packs only these",
            f"write a file for llama.cpp: genkit export {source} --to gguf --precision {precision}",
        )
    tensors: dict[str, NDArray[Any]] = {}
    ignored = []
    for name, weight in open_weights(source).items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            tensors[name] = _kept(weight)
        elif weight.shape[1] % GROUP:
            tensors[name] = _kept(weight)
            ignored.append(module)
        else:
            levels, scales = quantize(weight.floats(), BITS[precision])
            tensors[name + PACKED], tensors[name + SCALE] = pack(levels, BITS[precision]), scales
            tensors[name + SHAPE] = np.array(weight.shape, dtype="<i8")
    shapes = {name: (_NAMES[array.dtype.str], array.shape) for name, array in tensors.items()}
    head, names = layout(shapes, {"format": "pt"})
    with atomic_write(folder / library.WEIGHTS) as out:
        out.write(head)
        for name in names:
            out.write(tensors[name].tobytes())
    plain = {key: value for key, value in config.items() if key != "torch_dtype"}
    stored = quantization_config(BITS[precision], ["lm_head", *sorted(ignored)])
    return plain | {"dtype": "float16", "quantization_config": stored}


def _kept(weight: Weight) -> NDArray[Any]:
    """A tensor that is not quantised: a matrix in fp16, gains in fp32."""
    values = weight.floats()
    if values.ndim < 2:
        return values
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise InputError(f"{weight.name} holds a number that fp16 cannot", "use another model")
    return half

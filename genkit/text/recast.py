"""Weights on disk in another precision, without torch: tensor by tensor, whatever their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import atomic_write
from genkit.tensors import FLOATS, layout, nearest_bf16
from genkit.text.packed import open_weights

_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def recast(folder: Path, path: Path, precision: str) -> None:
    """Write the weights of the model in `folder` as one safetensors file.

    Floating point becomes fp32, fp16 or bf16, rounded to the nearest, ties to even;
    what has that precision, and integers, are copied bit for bit. Quantised matrices become
    the numbers that they stand for.

    Raises:
        InputError: missing or damaged weights, or a number that the precision cannot hold.
        OutputError: as `files.atomic_write`.
    """
    wanted = _NAMES[precision]
    weights = open_weights(folder)
    stored = {n: None if w.quantization else w.file.tensors[n]["dtype"] for n, w in weights.items()}
    dtypes = {name: dtype if dtype and dtype not in FLOATS else wanted for name, dtype in stored.items()}
    head, names = layout({name: (dtypes[name], weights[name].shape) for name in weights}, {"format": "pt"})
    with atomic_write(path) as out:
        out.write(head)
        for name in names:
            weight, same = weights[name], stored[name] == dtypes[name]
            out.write(weight.file.data(name).tobytes() if same else _converted(weight.values(), wanted, name))


def _converted(values: NDArray[Any], wanted: str, name: str) -> bytes:
    """Floating point numbers as another type."""
    with np.errstate(over="ignore"):
        made = nearest_bf16(values.astype("<f4")) if wanted == "BF16" else values.astype(FLOATS[wanted])
    finite = (made & 0x7F80) != 0x7F80 if wanted == "BF16" else np.isfinite(made)
    if not finite.all():
        raise InputError(f"{name} holds a number that {wanted.lower()} cannot", "use --precision fp32")
    return made.tobytes()

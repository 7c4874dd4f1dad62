"""Weights on disk in another precision, without torch: tensor by tensor, whatever their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import atomic_write
from genkit.library import weight_files
from genkit.tensors import FLOATS, TensorFile, layout, nearest_bf16

_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def recast(folder: Path, path: Path, precision: str) -> None:
    """Write the weights of the model in `folder` as one safetensors file.

    Floating point becomes fp32, fp16 or bf16, rounded to the nearest, ties to even;
    what has that precision, and integers, are copied bit for bit.

    Raises:
        InputError: missing or damaged weights, or a number that the precision cannot hold.
        OutputError: as `files.atomic_write`.
    """
    wanted = _NAMES[precision]
    sources = {name: file for file in map(TensorFile, weight_files(folder)) for name in file.tensors}
    entries = {name: file.tensors[name] for name, file in sources.items()}
    dtypes = {name: wanted if entry["dtype"] in FLOATS else entry["dtype"] for name, entry in entries.items()}
    head, names = layout({name: (dtypes[name], entries[name]["shape"]) for name in entries}, {"format": "pt"})
    with atomic_write(path) as out:
        out.write(head)
        for name in names:
            file, same = sources[name], entries[name]["dtype"] == dtypes[name]
            out.write(file.data(name).tobytes() if same else _converted(file.values(name), wanted, name))


def _converted(values: NDArray[Any], wanted: str, name: str) -> bytes:
    """Floating point numbers as another type."""
    with np.errstate(over="ignore"):
        made = nearest_bf16(values.astype("<f4")) if wanted == "BF16" else values.astype(FLOATS[wanted])
    finite = (made & 0x7F80) != 0x7F80 if wanted == "BF16" else np.isfinite(made)
    if not finite.all():
        raise InputError(f"{name} holds a number that {wanted.lower()} cannot", "use --precision fp32")
    return made.tobytes()

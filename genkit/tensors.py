"""Safetensors files as NumPy arrays, for what needs no torch."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import DTYPES, input_errors, open_regular, read_header

# the floating point dtypes of safetensors; NumPy has no bf16
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
}  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(DTYPES)}


class TensorFile:
    """A safetensors file from one opening, so that header and tensors belong together.

    A training run may replace the file at any time; what was opened stays whole. The
    tensors are mapped: they take memory only while they are looked at. Who keeps one
    longer copies it, because a program that writes into the file changes the arrays.

    Attributes:
        path: the file.
        head: the bytes before the tensors, which decide where each of them lies.
        tensors: name -> {"dtype", "shape", "data_offsets"}.

    Raises:
        InputError: missing, another format, truncated, or not what its header says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with input_errors(path), open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            self.tensors, start = read_header(file, path)
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._data) != size:
            raise InputError(f"{self.path} changed while it was read")
        self.tensors.pop("__metadata__", None)
        self.head = self._data[:start]

    def offset(self, name: str) -> int:
        """Where a tensor begins in the file."""
        begin: int = self.tensors[name]["data_offsets"][0]
        return len(self.head) + begin

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor."""
        begin, end = self.tensors[name]["data_offsets"]
        return np.frombuffer(self._data, np.uint8, end - begin, self.offset(name))

    def values(self, name: str) -> NDArray[Any]:
        """A tensor in its own precision, bf16 as float32.

        Raises:
            InputError: not a floating point tensor.
        """
        entry = self.tensors[name]
        if entry["dtype"] not in FLOATS:
            raise InputError(f"{self.path}: tensor {name!r} is {entry['dtype']}, not floating point")
        values = self.data(name).view(FLOATS[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = (values.astype("<u4") << 16).view("<f4")
        return values.reshape(entry["shape"])

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, in C order and aligned; copied only if it is not that already.

        Raises:
            InputError: not a floating point tensor, or one with numbers that are not finite.
        """
        with np.errstate(over="ignore"):  # what a float32 cannot hold becomes infinite
            values = np.require(self.values(name), np.float32, ["C", "ALIGNED"])
        if not np.isfinite(values).all():
            raise InputError(f"{self.path}: tensor {name!r} holds numbers that are not finite", "use another model")
        return values

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise InputError when the tensors are not those of the model, by name and shape."""
        missing, unexpected = sorted(shapes.keys() - self.tensors.keys()), sorted(self.tensors.keys() - shapes.keys())
        different = [
            f"{name} is {self.tensors[name]['shape']}, not {list(shape)}"
            for name, shape in sorted(shapes.items())
            if name in self.tensors and self.tensors[name]["shape"] != list(shape)
        ]
        problems = {"missing": missing, "unexpected": unexpected, "different": different}
        if any(problems.values()):
            text = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in problems.items() if names)
            raise InputError(
                f"{self.path} does not fit this model: {text}", "use the config.json that was saved with it"
            )


def nearest_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to the nearest, ties to even."""
    bits = values.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def layout(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, list[str]]:
    """How a safetensors file begins, and the order in which its tensors follow.

    Args:
        tensors: name -> dtype, a key of `files.DTYPES`, and shape.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    # widest dtype first, so that every tensor is aligned
    names = sorted(tensors, key=lambda name: (-_RANK[tensors[name][0]], name))
    at = 0
    for name in names:
        dtype, shape = tensors[name]
        end = at + math.prod(shape) * DTYPES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names

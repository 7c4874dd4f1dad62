"""The tensors of an image model as NumPy arrays, for engines without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import input_errors, open_regular, read_header

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype("<u2")}


class Weights:
    """A safetensors file, read at once, so that header and tensors belong together.

    A training run may replace the file at any time; what was opened stays whole.

    Args:
        path: the file.

    Attributes:
        header: tensor name -> {"dtype", "shape", "data_offsets"}.
        head: the bytes before the tensors, which decide where each of them lies.

    Raises:
        InputError: missing, another format, truncated, or not what its header says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with input_errors(path), open_regular(path) as file:
            self.header, start = read_header(file, path)
            file.seek(0)
            self._data = file.read()
        self.header.pop("__metadata__", None)
        self.head = self._data[:start]
        if len(self._data) - start != max((e["data_offsets"][1] for e in self.header.values()), default=0):
            raise InputError(f"{path} changed while it was read")

    def offset(self, name: str) -> int:
        """Where a tensor begins in the file."""
        begin: int = self.header[name]["data_offsets"][0]
        return len(self.head) + begin

    def array(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32; float32 itself is not copied.

        Raises:
            InputError: not a floating point tensor, or one with numbers that are not finite.
        """
        entry = self.header[name]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InputError(f"{self.path}: tensor {name!r} is {entry['dtype']}, not a floating point number")
        size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // dtype.itemsize
        raw = np.frombuffer(self._data, dtype, size, self.offset(name)).reshape(entry["shape"])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            raw = (raw.astype("<u4") << 16).view("<f4")
        with np.errstate(over="ignore"):
            values = np.require(raw, np.float32, ["C", "ALIGNED"])
        if not np.isfinite(values).all():
            raise InputError(f"{self.path} holds numbers that are not finite", "use another model")
        return values


def check_fits(shapes: Mapping[str, tuple[int, ...]], header: Mapping[str, Any], path: Path) -> None:
    """Raise InputError when the tensors of a file are not those of the model, by name and shape."""
    missing, unexpected = sorted(shapes.keys() - header.keys()), sorted(header.keys() - shapes.keys())
    other = [
        f"{name} is {header[name]['shape']}, not {list(shape)}"
        for name, shape in sorted(shapes.items())
        if name in header and header[name]["shape"] != list(shape)
    ]
    problems = {"missing": missing, "unexpected": unexpected, "different": other}
    if any(problems.values()):
        text = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in problems.items() if names)
        raise InputError(f"{path} does not fit its config.json: {text}", "use the config.json that was saved with it")

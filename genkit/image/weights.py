"""The tensors of an image model as NumPy arrays, for engines without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import input_errors, open_regular, read_header

_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype("<u2"),
}  # fmt: skip


class Header:
    """What a safetensors file holds and where, without the tensors themselves.

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
            self._read(file)

    def _read(self, file: IO[bytes]) -> None:
        self.tensors, start = read_header(file, self.path)
        self.tensors.pop("__metadata__", None)
        file.seek(0)
        self.head = file.read(start)

    def offset(self, name: str) -> int:
        """Where a tensor begins in the file."""
        begin: int = self.tensors[name]["data_offsets"][0]
        return len(self.head) + begin

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


class Weights(Header):
    """A safetensors file, read from one opening, so that header and tensors belong together.

    A training run may replace the file at any time; what was opened stays whole.
    """

    def _read(self, file: IO[bytes]) -> None:
        super()._read(file)
        self._data = file.read()
        if len(self._data) != max((entry["data_offsets"][1] for entry in self.tensors.values()), default=0):
            raise InputError(f"{self.path} changed while it was read")

    def array(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32; what is float32 already is not copied.

        Raises:
            InputError: not a floating point tensor, or one with numbers that are not finite.
        """
        entry = self.tensors[name]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InputError(f"{self.path}: tensor {name!r} is {entry['dtype']}, which the onnx engine does not read")
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(self._data, dtype, (end - begin) // dtype.itemsize, begin)
        if entry["dtype"] == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # what a float32 cannot hold becomes infinite, and is refused below
            values = np.require(raw.reshape(entry["shape"]), np.float32, ["C", "ALIGNED"])
        if not np.isfinite(values).all():
            raise InputError(f"{self.path} holds numbers that are not finite", "use another model")
        return values

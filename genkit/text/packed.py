"""Weights in few bits: integers that share a scale, and several of them in a word. NumPy only.

A matrix (O, I) is stored as compressed-tensors does: `weight_packed` (O, I bits / 32)
int32, the first number in the lowest bits; `weight_scale` (O, I / group); and
`weight_shape`. The numbers are those of llama.cpp's Q8_0 and Q4_0, whose files hold
them without another rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG, weight_files
from genkit.tensors import TensorFile
from genkit.text.quantized import GROUP, Quantization, read_quantization

PACKED, SCALE, SHAPE = "_packed", "_scale", "_shape"  # behind a matrix's name


@dataclass(frozen=True)
class Weight:
    """A tensor of a model, read when its values are asked for.

    Attributes:
        file: where it lies.
        name: without the endings of a packed one.
        shape: of its values.
        quantization: None where it is stored as floating point.
    """

    file: TensorFile
    name: str
    shape: tuple[int, ...]
    quantization: Quantization | None

    def floats(self) -> NDArray[np.float32]:
        """Its values as float32, in C order.

        Raises:
            InputError: not floating point, or numbers that are not finite.
        """
        return self.file.floats(self.name) if self.quantization is None else self.values()

    def values(self) -> NDArray[Any]:
        """Its values in their own precision, bf16 and quantised ones as float32.

        Raises:
            InputError: not floating point, or scales that are not finite.
        """
        if self.quantization is None:
            return self.file.values(self.name)
        bits, group = self.quantization.bits, self.quantization.group
        scales = self.file.floats(self.name + SCALE)  # (O, I / group)
        packed = self.file.data(self.name + PACKED).view("<i4").reshape(self.shape[0], -1)
        levels = unpack(packed, bits, self.shape[1])
        return dequantize(levels, scales, group)


def open_weights(folder: Path) -> dict[str, Weight]:
    """The tensors of a model directory by name, quantised or not, in one file or several.

    Raises:
        InputError: missing or damaged files, or weights that are quantised in a way that genkit does not read.
    """
    quantization = read_quantization(read_json(folder / CONFIG), folder)
    found: dict[str, Weight] = {}
    for file in map(TensorFile, weight_files(folder)):
        for name, entry in file.tensors.items():
            if quantization is None or not name.endswith((PACKED, SCALE, SHAPE)):
                found[name] = Weight(file, name, tuple(entry["shape"]), None)
            elif name.endswith(PACKED):
                matrix = name.removesuffix(PACKED)
                found[matrix] = Weight(file, matrix, _shape(file, matrix, quantization), quantization)
    return found


def _shape(file: TensorFile, name: str, quantization: Quantization) -> tuple[int, int]:
    """Rows and columns of a packed matrix, if its parts agree on them."""
    parts = {ending: file.tensors.get(name + ending, {}) for ending in (PACKED, SCALE, SHAPE)}
    bits, group = quantization.bits, quantization.group
    sizes = parts[SHAPE].get("dtype"), parts[SHAPE].get("shape")
    if sizes == ("I64", [2]) and parts[PACKED].get("dtype") == "I32":
        rows, columns = (int(size) for size in file.data(name + SHAPE).view("<i8"))
        words = -(-columns * bits // 32)
        if parts[PACKED]["shape"] == [rows, words] and parts[SCALE].get("shape") == [rows, -(-columns // group)]:
            return rows, columns
    raise InputError(
        f"{file.path}: {name} is not packed as config.json says", "copy the model again, or use the one it was made of"
    )


def quantize(values: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Round a matrix (O, I) to integers of a few bits, in groups of 32 numbers along its rows.

    8 bits: the scale is the largest magnitude / 127, integers are the nearest. 4 bits:
    the number of largest magnitude becomes -8, which uses all 16 levels, so that a scale
    may be negative. These are the rules of llama.cpp.

    Returns:
        the integers (O, I), and the scales (O, I / 32) that they are multiplied with.

    Raises:
        InputError: a number is too large for a scale in fp16.
    """
    rows, columns = values.shape
    groups = values.reshape(rows, columns // GROUP, GROUP)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1)  # (O, G, 1)
    exact = np.abs(extreme) / np.float32(127) if bits == 8 else extreme / np.float32(-8)
    with np.errstate(over="ignore"):
        scales = exact.astype(np.float16)
    if not np.isfinite(scales).all():
        raise InputError("a weight is too large to be quantised", "use another model")
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        steps = np.where(scales == 0, 0, groups / exact)  # a scale that fp16 rounds to 0 leaves nothing
    half_up = np.trunc(np.abs(steps) + np.float32(0.5)) * np.sign(steps) if bits == 8 else np.floor(steps + 0.5)
    top = (1 << (bits - 1)) - 1
    return half_up.clip(-top - 1, top).astype(np.int8).reshape(rows, columns), scales[..., 0]


def dequantize(levels: NDArray[np.int8], scales: NDArray[Any], group: int) -> NDArray[np.float32]:
    """The float32 numbers (O, I) that integers (O, I) and scales (O, I / group) stand for."""
    wide = np.repeat(scales.astype(np.float32), group, axis=1)[:, : levels.shape[1]]
    return levels * wide


def pack(levels: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """Integers (O, I) of 4 or 8 bits as words (O, ceil(I bits / 32)), the first in the lowest bits."""
    raised: NDArray[Any] = (levels.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        raised = np.pad(raised, ((0, 0), (0, raised.shape[1] % 2)))
        raised = raised[:, ::2] | raised[:, 1::2] << 4
    filled = np.pad(raised, ((0, 0), (0, -raised.shape[1] % 4)))
    return np.ascontiguousarray(filled).view("<i4")


def unpack(packed: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.int8]:
    """What `pack` packed, `columns` numbers a row."""
    raised: NDArray[Any] = np.ascontiguousarray(packed).view(np.uint8)  # (O, bytes)
    if bits == 4:
        raised = np.stack((raised & 15, raised >> 4), axis=-1).reshape(len(raised), -1)
    return (raised[:, :columns].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)

"""Weights on disk in another precision, without torch: tensor by tensor, whatever their size."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.files import DTYPES, atomic_write, input_errors, open_regular, read_header
from genkit.text.gguf import weight_files

_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
}  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(DTYPES)}
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
    with ExitStack() as stack:
        # name -> its file, where the data begin there, its entry in the header
        found: dict[str, tuple[IO[bytes], int, dict[str, Any]]] = {}
        for source in weight_files(folder):
            with input_errors(source):
                file = stack.enter_context(open_regular(source))
            header, start = read_header(file, source)
            found |= {name: (file, start, entry) for name, entry in header.items() if name != "__metadata__"}
        kinds = {name: wanted if e["dtype"] in _FLOATS else e["dtype"] for name, (_, _, e) in found.items()}
        # widest dtype first, so that every tensor is aligned
        names = sorted(found, key=lambda name: (-_RANK[kinds[name]], name))
        head = _header(names, kinds, {name: entry["shape"] for name, (_, _, entry) in found.items()})
        with atomic_write(path) as out:
            out.write(len(head).to_bytes(8, "little") + head)
            for name in names:
                data, dtype = _read(*found[name]), found[name][2]["dtype"]
                out.write(data if dtype == kinds[name] else _converted(data, dtype, wanted, name))


def _header(names: list[str], kinds: dict[str, str], shapes: dict[str, list[int]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        end = at + math.prod(shapes[name]) * DTYPES[kinds[name]]
        header[name] = {"dtype": kinds[name], "shape": shapes[name], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def _read(file: IO[bytes], start: int, entry: dict[str, Any]) -> bytes:
    begin, end = entry["data_offsets"]
    file.seek(start + begin)
    data = file.read(end - begin)
    if len(data) != end - begin:
        raise InputError(f"{file.name} became shorter while it was read")
    return data


def _converted(data: bytes, dtype: str, wanted: str, name: str) -> bytes:
    """Numbers of one floating point type as another."""
    values = np.frombuffer(data, _FLOATS[dtype])
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):
        made = nearest_bf16(values.astype("<f4")) if wanted == "BF16" else values.astype(_FLOATS[wanted])
    finite = (made & 0x7F80) != 0x7F80 if wanted == "BF16" else np.isfinite(made)
    if not finite.all():
        raise InputError(f"{name} holds a number that {wanted.lower()} cannot", "use --precision fp32")
    return made.tobytes()


def nearest_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to the nearest, ties to even."""
    bits = values.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")

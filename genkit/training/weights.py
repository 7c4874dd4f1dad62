"""Tensors on disk: the safetensors format, written and read as a stream.

The file is byte for byte what `safetensors.torch.save` gives, but it is hashed
while it passes and never held in memory twice, and it goes through
`genkit.files`, so it is durable and has the permissions of the umask.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor, nn

from genkit import files
from genkit.errors import InputError
from genkit.runtime.parallel import split_like
from genkit.tensors import layout

_TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16,
    "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
    "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TORCH.items()}


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file atomically; tensors keep their dtype.

    Equal tensors give equal bytes, whatever the order of the mapping.

    Returns:
        the file's SHA-256.

    Raises:
        OutputError: as `files.atomic_write`.
    """
    with files.atomic_write(path) as file:
        return write_tensors(file, tensors, metadata)


def write_tensors(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write the safetensors format to an open file and return the SHA-256 of the bytes."""
    head, names = layout({name: (_NAMES[t.dtype], t.shape) for name, t in tensors.items()}, metadata)
    digest = hashlib.sha256()
    for data in itertools.chain([head], (_bytes(tensors[name]) for name in names)):
        file.write(data)
        digest.update(data)
    return digest.hexdigest()


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in memory of their own.

    Raises:
        InputError: as `files.check_safetensors`.
    """
    return read_tensors(path)[0]


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """As `load_tensors`, with the file's SHA-256, from one reading."""
    with files.input_errors(path), files.open_regular(path) as file:
        header, start = files.read_header(file, path)
        header.pop("__metadata__", None)
        file.seek(0)
        digest = hashlib.sha256(file.read(start))
        tensors = {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            raw = torch.empty(end - begin, dtype=torch.uint8)
            if file.readinto(_bytes(raw)) != end - begin:
                raise InputError(f"{os.fspath(path)} became shorter while it was read")
            digest.update(_bytes(raw))
            tensors[name] = raw.view(_TORCH[entry["dtype"]]).reshape(entry["shape"])
    return tensors, digest.hexdigest()


@torch.no_grad()
def copy_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module's parameters and buffers; `source` is for the error.

    Raises:
        InputError: missing or unexpected names, other shapes, or integers for floats.
    """
    own = named_tensors(module)
    missing, unexpected = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    other = [
        f"{name} is {_describe(tensors[name])}, not {_describe(own[name])}"
        for name in sorted(set(own) & set(tensors))
        if own[name].shape != tensors[name].shape or own[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    problems = {"missing": missing, "unexpected": unexpected, "different": other}
    if any(problems.values()):
        text = "; ".join(f"{kind}: {_few(names)}" for kind, names in problems.items() if names)
        raise InputError(f"{source} does not fit this model: {text}", "use the config.json that was saved with it")
    for name, tensor in own.items():
        tensor.copy_(split_like(tensors[name], tensor))


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, without the prefixes of torch.compile and DDP."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}


def _bytes(tensor: Tensor) -> Any:
    """The tensor's memory as an array of bytes; a copy only if it is not contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

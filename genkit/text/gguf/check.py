"""Reading the header of a GGUF file without trust. Stdlib only.

llama.cpp ends the whole process over some files that are not what they say.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genkit.errors import InputError
from genkit.files import input_errors, open_regular

MAGIC = b"GGUF"
_MAX_ITEMS = 1 << 24
_LONGEST = 1 << 18  # tokens; llama.cpp's masks grow with the context too
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

# tensor type -> its name, elements in a block, bytes in a block
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes:
        fields: its settings by key; a list stands as its length.
        tensors: name -> shape, innermost dimension first as in the file, and type.
    """

    fields: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], str]]


def check_gguf(path: str | os.PathLike[str]) -> Header:
    """Read and validate the header of a GGUF file, not its tensors.

    Raises:
        InputError: missing, another format, big-endian, truncated, or a header whose
            sizes and offsets do not fit the file.
    """
    name = os.fspath(path)
    with input_errors(path), open_regular(path) as file:
        if problem := _other(file.read(8)):
            raise InputError(f"{name} {problem}", "genkit reads GGUF files of version 2 and 3")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).header()
            except (_Malformed, UnicodeDecodeError) as error:
                raise InputError(f"{name} is a damaged GGUF file: {error}", "copy or download it again") from None


def read_fields(path: Path, suffixes: Iterable[str]) -> dict[str, Any]:
    """The first settings of a sound file whose keys end as asked, by suffix; what is behind them is not read."""
    wanted, found = set(suffixes), {}
    with input_errors(path), open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        reader.at = 16
        for _ in range(reader.number("Q")):
            key, value = reader.text(), reader.value()
            for suffix in [s for s in wanted if key.endswith(s)]:
                found[suffix] = value
                wanted.discard(suffix)
            if not wanted:
                break
    return found


def fitting_context(path: Path, header: Header, rows: int, memory: int) -> int:
    """Tokens that each of `rows` rows can have: the model's context, or what keys and values in fp16 leave room for.

    Raises:
        InputError: the header does not tell the model's context.
    """
    arch = header.fields.get("general.architecture")

    def number(key: str, default: int) -> int:
        value = header.fields.get(f"{arch}.{key}")
        return value if type(value) is int and value > 0 else default

    if not (trained := number("context_length", 0)):
        raise InputError(f"{path} does not say how long its model's context is", "use another file")
    heads = number("attention.head_count", 1)
    width = number("attention.key_length", max(1, number("embedding_length", 1) // heads))
    cache = 4 * number("block_count", 1) * number("attention.head_count_kv", heads) * width  # bytes a token
    return min(trained, _LONGEST, max(256, memory // (cache * rows)))


class _Malformed(ValueError):
    pass


def _other(head: bytes) -> str | None:
    if not head:
        return "is empty"
    if head[:4] != MAGIC:
        return "is not a GGUF file"
    version = int.from_bytes(head[4:8], "little")
    if len(head) == 8 and version not in (2, 3):
        big = int.from_bytes(head[4:8], "big") in (2, 3)
        return "is in big-endian byte order" if big else f"has the unknown version {version}"
    return None


class _Reader:
    """A mapped file, read from the front."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def header(self) -> Header:
        self.at = 8
        tensors, settings = self.number("Q"), self.number("Q")
        # 13 bytes are the shortest setting, 24 the shortest tensor
        if settings > self.size // 13 or tensors > self.size // 24:
            raise _Malformed(f"{tensors} tensors and {settings} settings in {self.size} bytes")
        fields: dict[str, Any] = {}
        for _ in range(settings):
            key = self.text()
            if key in fields:
                raise _Malformed(f"the key {key!r} stands there twice")
            fields[key] = self.value()
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise _Malformed(f"an alignment of {alignment!r}")
        found = [self.tensor() for _ in range(tensors)]
        start = -(-self.at // alignment) * alignment
        expected = 0
        for name, _, _, length, offset in found:
            if offset != expected or start + offset + length > self.size:
                raise _Malformed(f"tensor {name!r} lies at byte {start + offset} of {self.size}")
            expected = -(-(offset + length) // alignment) * alignment
        shapes = {name: (shape, kind) for name, shape, kind, _, _ in found}
        if len(shapes) != len(found):
            raise _Malformed("two tensors have the same name")
        return Header(fields, shapes)

    def tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """Name, shape, type, length in bytes and offset."""
        name, rank = self.text(), self.number("I")
        if not 1 <= rank <= 4 or len(name.encode()) > 63:
            raise _Malformed(f"tensor {name[:80]!r} has {rank} dimensions")
        shape = tuple(self.number("Q") for _ in range(rank))
        number, offset = self.number("I"), self.number("Q")
        if number not in TYPES:
            raise _Malformed(f"tensor {name!r} has the unknown type {number}")
        kind, block, width = TYPES[number]
        if min(shape) < 1 or math.prod(shape) >= 1 << 62 or shape[0] % block:
            raise _Malformed(f"tensor {name!r} of type {kind} has the shape {list(shape)}")
        return name, shape, kind, math.prod(shape) // block * width, offset

    def value(self) -> Any:
        kind = self.number("I")
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(kind)
        element, count = self.number("I"), self.number("Q")
        if count > _MAX_ITEMS:
            raise _Malformed(f"a list of {count} items")
        if element == _STRING:
            for _ in range(count):
                self.take(self.number("Q"))
        elif element in _SCALARS:
            self.take(count * struct.calcsize(_SCALARS[element]))
        else:
            raise _Malformed(f"a list of the unknown type {element}")
        return count

    def scalar(self, kind: int) -> Any:
        if kind not in _SCALARS:
            raise _Malformed(f"a setting of the unknown type {kind}")
        value = self.number(_SCALARS[kind])
        if kind == 7 and value > 1:
            raise _Malformed(f"a truth value of {value}")
        return bool(value) if kind == 7 else value

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise _Malformed(f"it ends inside its header, at byte {self.size}")
        self.at += count
        return self.data[self.at - count : self.at]

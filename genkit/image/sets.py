"""Known data sets by name, as their publishers pack them: read in place, never downloaded, never unpickled.

`torchvision:NAME[:SPLIT][@ROOT]`, where ROOT is what torchvision calls the root (default:
`data`). The path is part of the name, and not a flag of its own, so that `--data`,
`--val-data` and `genkit eval --data` say it in the same way.

Each set becomes a `Source` of small PNM files in one folder a class.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError, UsageError
from genkit.image.sources import NAMED, Source

_SPEC = re.compile(r"torchvision:(?P<name>\w+)(?::(?P<split>\w+))?(?:@(?P<root>.+))?")
_MAX_BYTES = 4 << 30  # of one unpacked file; the largest set has 2.8 GB
_DIGITS = tuple("0123456789")
_FASHION = ["T-shirt-top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"]
_KANA = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8] | None, Sequence[str]]
"""Pixels (N, H, W, C), labels (N,), and what they are called."""


@dataclass(frozen=True)
class _Set:
    """How a set is read.

    Attributes:
        folders: where its files may lie below the root.
        splits: split -> files; the first one is the default.
        read: from the paths of a split's files.
    """

    folders: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    read: Callable[[Sequence[Path]], Arrays]


def open_set(spec: str, flag: str = "--data") -> Source:
    """The images of `torchvision:NAME[:SPLIT][@ROOT]`.

    Args:
        flag: where it comes from, for the errors.

    Raises:
        UsageError: not such a name, or a set or split that genkit does not read.
        InputError: its files are not below the root, or are not what they should be.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(
            f"{flag} {spec!r} is no torchvision:NAME[:SPLIT][@ROOT]", "write torchvision:FashionMNIST@data"
        )
    by_name = {name.lower(): name for name in SETS}
    name = by_name.get(match["name"].lower())
    if name is None:
        raise UsageError(
            f"{flag} {spec!r}: genkit reads {', '.join(SETS)} of torchvision's data sets",
            "a set of image files is read by its folder: --data DIR",
        )
    known = SETS[name]
    split = match["split"] or next(iter(known.splits))
    if split not in known.splits:
        raise UsageError(f"{flag} {spec!r}: {name} has {', '.join(known.splits)}, not {split}")
    paths = _find(name, Path(match["root"] or "data"), known, split)
    try:
        pixels, labels, classes = known.read(paths)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{name} in {str(paths[0].parent)!r} cannot be read: {error}", "get its files anew") from error
    return _source(paths[0], pixels, labels, classes)


def _find(name: str, root: Path, known: _Set, split: str) -> list[Path]:
    """The files of a split, packed or not."""
    for folder in known.folders:
        found = [_packed_or_not(root / folder / file) for file in known.splits[split]]
        if all(found):
            return [path for path in found if path]
    if any((root / folder).is_dir() for folder in ("cifar-10-batches-py", "cifar-100-python")) and "CIFAR" in name:
        raise InputError(
            f"{name} in {str(root)!r} is its Python version, which is made of pickles: they could run any code",
            f"get the binary version, which unpacks to {known.folders[0]}, from where {name} is published",
        )
    wanted = " and ".join(known.splits[split][:2])
    raise InputError(
        f"{name}: there is no {wanted} below {str(root)!r}",
        f"download it with torchvision.datasets.{name}, which is not genkit's, or name its place: {NAMED}{name}@DIR",
    )


def _packed_or_not(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def _source(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.uint8] | None, classes: Sequence[str]) -> Source:
    n, height, width, channels = pixels.shape
    header = f"P{5 if channels == 1 else 6} {width} {height} 255\n".encode()
    suffix = "pgm" if channels == 1 else "ppm"
    digits = len(str(n - 1))
    names = [f"{i:0{digits}d}.{suffix}" for i in range(n)]
    if labels is not None:
        if len(labels) != n or labels.max() >= len(classes):
            raise InputError(f"{str(path)!r}: the labels do not fit the images", "get its files anew")
        folders = [name.replace("/", "-") for name in classes]
        names = [f"{folders[label]}/{name}" for label, name in zip(labels, names, strict=True)]
    places = {name: i for i, name in enumerate(names)}
    status = path.stat()
    return Source(
        path,
        names=sorted(names),
        stamps=dict.fromkeys(names, (status.st_size, status.st_mtime_ns)),
        read=lambda name: io.BytesIO(header + pixels[places[name]].tobytes()),
    )


# --- formats ------------------------------------------------------------------------------


def _bytes(path: Path) -> NDArray[np.uint8]:
    """All bytes of a file, mapped, or unpacked if its name ends in .gz."""
    if path.suffix != ".gz":
        return np.memmap(path, np.uint8, "r")
    with gzip.open(path) as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{path.name} unpacks to more than {_MAX_BYTES:,} bytes")
    return np.frombuffer(data, np.uint8)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in the format of MNIST: magic, sizes of the dimensions, values.

    Raises:
        ValueError: not such a file, or cut.
        OSError, EOFError: unreadable.
    """
    data = _bytes(path)
    if len(data) < 4 or data[:3].tolist() != [0, 0, 8]:
        raise ValueError(f"{path.name} is no idx file of bytes")
    dimensions = int(data[3])
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions].tobytes())
    values = data[4 + 4 * dimensions :]
    if len(values) != math.prod(shape):
        raise ValueError(f"{path.name} has {len(values):,} values, not {math.prod(shape):,}")
    return values.reshape(shape)


def _idx(classes: Sequence[str]) -> Callable[[Sequence[Path]], Arrays]:
    def read(paths: Sequence[Path]) -> Arrays:
        images, labels = map(read_idx, paths)
        if images.ndim != 3 or labels.ndim != 1 or not images.size:
            raise ValueError(f"{paths[0].name} holds no images")
        return images[:, :, :, None], labels, classes

    return read


def _cifar(label_bytes: int) -> Callable[[Sequence[Path]], Arrays]:
    """Records of label bytes, the last of which counts, then 32 x 32 pixels of red, of green and of blue."""

    def read(paths: Sequence[Path]) -> Arrays:
        *batches, listed = paths
        size = label_bytes + 3 * 32 * 32
        records = []
        for path in batches:
            data = _bytes(path)
            if not len(data) or len(data) % size:
                raise ValueError(f"{path.name} is no row of records of {size:,} bytes")
            records.append(data.reshape(-1, size))
        whole = np.concatenate(records)
        images = whole[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, C)
        return images, whole[:, label_bytes - 1], _lines(listed)

    return read


def _stl10(paths: Sequence[Path]) -> Arrays:
    """96 x 96 pixels of red, of green and of blue, each column by column; labels count from 1."""
    images = _bytes(paths[0])
    if not len(images) or len(images) % (3 * 96 * 96):
        raise ValueError(f"{paths[0].name} is no row of images of 96 x 96 pixels")
    pixels = images.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # (N, H, W, C)
    return (pixels, _bytes(paths[1]) - np.uint8(1), _lines(paths[2])) if len(paths) > 1 else (pixels, None, ())


def _lines(path: Path) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file.read(1 << 16).splitlines() if line.strip()]


def _mnist(name: str, classes: Sequence[str], *more: str) -> _Set:
    splits: dict[str, tuple[str, ...]] = {
        split: (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
        for split, stem in (("train", "train"), ("test", "t10k"))
    }
    return _Set((f"{name}/raw", *more, ""), splits, _idx(classes))


SETS = {
    "MNIST": _mnist("MNIST", _DIGITS, "mnist"),
    "FashionMNIST": _mnist("FashionMNIST", _FASHION, "fashion-mnist"),
    "KMNIST": _mnist("KMNIST", _KANA, "kmnist"),
    "CIFAR10": _Set(
        ("cifar-10-batches-bin", ""),
        {
            "train": (*(f"data_batch_{i}.bin" for i in range(1, 6)), "batches.meta.txt"),
            "test": ("test_batch.bin", "batches.meta.txt"),
        },
        _cifar(1),
    ),
    "CIFAR100": _Set(
        ("cifar-100-binary", ""),
        {split: (f"{split}.bin", "fine_label_names.txt") for split in ("train", "test")},
        _cifar(2),
    ),
    "STL10": _Set(
        ("stl10_binary", ""),
        {split: (f"{split}_X.bin", f"{split}_y.bin", "class_names.txt") for split in ("train", "test")}
        | {"unlabeled": ("unlabeled_X.bin",)},
        _stl10,
    ),
}

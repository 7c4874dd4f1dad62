"""Known data sets are read as their publishers pack them, without torchvision and without pickles."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genkit.errors import InputError, UsageError
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare
from genkit.image.decode import decode
from genkit.image.sets import SETS, read_idx
from genkit.image.sources import Source, scan

RANDOM = np.random.default_rng(0)


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def pixels(source: Source, name: str, size: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    return decode(source.open(name), size, channels, "crop")


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "fashion-mnist", ""])
def test_mnist_and_its_kin(tmp_path: Path, folder: str, packed: str) -> None:
    images, labels = RANDOM.integers(0, 255, (4, 28, 28), np.uint8), np.array([9, 0, 0, 3], np.uint8)
    write(tmp_path / folder / f"train-images-idx3-ubyte{packed}", idx(images))
    write(tmp_path / folder / f"train-labels-idx1-ubyte{packed}", idx(labels))
    source = scan(f"torchvision:fashionmnist@{tmp_path}")
    assert source.names == ["Ankle-boot/0.pgm", "Dress/3.pgm", "T-shirt-top/1.pgm", "T-shirt-top/2.pgm"]
    for i, name in enumerate(["Ankle-boot/0.pgm", "T-shirt-top/1.pgm", "T-shirt-top/2.pgm", "Dress/3.pgm"]):
        assert np.array_equal(pixels(source, name, 28, 1)[:, :, 0], images[i])


def test_a_set_becomes_a_store_with_labels(tmp_path: Path) -> None:
    labels = np.arange(60, dtype=np.uint8) % 10
    images = (
        np.broadcast_to(labels[:, None, None] * 20, (60, 28, 28)) + np.arange(60, dtype=np.uint8)[:, None, None] // 10
    )
    write(tmp_path / "t10k-images-idx3-ubyte", idx(images.astype(np.uint8)))
    write(tmp_path / "t10k-labels-idx1-ubyte", idx(labels))
    config = GANTrainConfig(data=f"torchvision:MNIST:test@{tmp_path}", size=32)
    store = prepare(config, tmp_path / "store")
    assert store.classes == tuple("0123456789")
    assert store.images.shape == (60, 32, 32, 1)
    assert store.labels is not None
    assert np.array_equal(store.images[:, 9, 9, 0] // 20, store.labels)
    fingerprint = store.report.fingerprint
    assert prepare(config, tmp_path / "store", expected=fingerprint).report == store.report
    write(tmp_path / "t10k-labels-idx1-ubyte", idx(labels[::-1]))
    with pytest.raises(InputError, match="changed since this run began"):
        prepare(config, tmp_path / "store", expected=fingerprint)


@pytest.mark.parametrize(("name", "label_bytes"), [("CIFAR10", 1), ("CIFAR100", 2)])
def test_binary_cifar(tmp_path: Path, name: str, label_bytes: int) -> None:
    images = RANDOM.integers(0, 255, (10, 32, 32, 3), np.uint8)
    records = [
        bytes([7] * (label_bytes - 1) + [i % 2]) + image.transpose(2, 0, 1).tobytes() for i, image in enumerate(images)
    ]
    *batches, names = SETS[name].splits["train"]
    for i, batch in enumerate(batches):
        share = 10 // len(batches)
        write(tmp_path / SETS[name].folders[0] / batch, b"".join(records[i * share : (i + 1) * share]))
    write(tmp_path / SETS[name].folders[0] / names, b"air/plane\ncar\n\n")
    source = scan(f"torchvision:{name}@{tmp_path}")
    assert source.names == sorted(f"{'car' if i % 2 else 'air-plane'}/{i}.ppm" for i in range(10))
    assert all(np.array_equal(pixels(source, f"car/{i}.ppm"), images[i]) for i in range(1, 10, 2))


def test_stl10(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 255, (2, 96, 96, 3), np.uint8)
    data = images.transpose(0, 3, 2, 1).tobytes()
    for file, content in {"train_X.bin": data, "unlabeled_X.bin": data, "train_y.bin": b"\2\1"}.items():
        write(tmp_path / "stl10_binary" / file, content)
    write(tmp_path / "stl10_binary" / "class_names.txt", b"bird\ncat\n")
    source = scan(f"torchvision:STL10@{tmp_path}")
    assert source.names == ["bird/1.ppm", "cat/0.ppm"]
    assert np.array_equal(pixels(source, "cat/0.ppm", 96), images[0])
    assert scan(f"torchvision:STL10:unlabeled@{tmp_path}").names == ["0.ppm", "1.ppm"]


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar-100-python"])
def test_pickles_are_refused_by_name(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    name = "CIFAR10" if "10-" in folder else "CIFAR100"
    with pytest.raises(InputError, match="pickles") as caught:
        scan(f"torchvision:{name}@{tmp_path}")
    assert "binary version" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("torchvision:", UsageError, "is no torchvision:NAME"),
        ("torchvision:../x", UsageError, "is no torchvision:NAME"),
        ("torchvision:SVHN", UsageError, "genkit reads MNIST, FashionMNIST"),
        ("torchvision:MNIST:val", UsageError, "MNIST has train, test, not val"),
        ("torchvision:MNIST@nowhere", InputError, "there is no train-images-idx3-ubyte and .* below 'nowhere'"),
    ],
)
def test_what_is_not_there(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        scan(spec)


GOOD = idx(np.zeros((2, 2, 2), np.uint8))


@pytest.mark.parametrize(
    "images",
    [
        b"",
        GOOD[:3],
        GOOD[:9],
        GOOD[:-1],
        GOOD + b"\0",
        b"\x80\4" + GOOD,
        idx(np.zeros(8, np.uint8)),
        idx(np.zeros((0, 2, 2), np.uint8)),
    ],
    ids=["empty", "no magic", "no sizes", "cut", "too long", "a pickle", "no images", "none at all"],
)
def test_broken_files_are_refused(tmp_path: Path, images: bytes) -> None:
    write(tmp_path / "train-images-idx3-ubyte", images)
    write(tmp_path / "train-labels-idx1-ubyte", idx(np.zeros(2, np.uint8)))
    with pytest.raises(InputError, match="cannot be read"):
        scan(f"torchvision:MNIST@{tmp_path}")


def test_a_broken_or_too_large_gz_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write(tmp_path / "train-labels-idx1-ubyte", idx(np.zeros(2, np.uint8)))
    whole = gzip.compress(GOOD)
    for data in (whole[:-9], whole[:12] + b"\xff" * 9 + whole[21:], b"not gzip"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read"):
            scan(f"torchvision:MNIST@{tmp_path}")
    path.write_bytes(gzip.compress(GOOD))
    assert read_idx(path).shape == (2, 2, 2)
    monkeypatch.setattr("genkit.image.sets._MAX_BYTES", 10)
    with pytest.raises(InputError, match="unpacks to more than 10 bytes"):
        scan(f"torchvision:MNIST@{tmp_path}")


@pytest.mark.parametrize("labels", [np.array([0, 10], np.uint8), np.zeros(3, np.uint8)], ids=["unknown", "too many"])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    write(tmp_path / "train-images-idx3-ubyte", GOOD)
    write(tmp_path / "train-labels-idx1-ubyte", idx(labels))
    with pytest.raises(InputError, match="labels do not fit"):
        scan(f"torchvision:MNIST@{tmp_path}")

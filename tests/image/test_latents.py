"""Latents in files: which are read, how they mix, and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genkit.errors import InputError, UsageError
from genkit.image import npz
from genkit.image.canvas import read_note
from genkit.image.engines import ImageRequest
from genkit.image.latents import mixed, read_latents
from genkit.image.lists import Rows
from genkit.image.modelconfig import DCGANConfig, PlusConfig
from genkit.image.walk import slerp

SHAPE = PlusConfig(size=32, nz=3, classes=("a", "b"))
LATENTS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.npz")


def test_rows_come_with_labels_and_seeds(path: str) -> None:
    np.savez(path, latents=LATENTS.astype(np.float64), labels=[1, 0], seeds=np.array([2**64 - 1, 5], np.uint64))
    first, second = read_latents(Rows(path), SHAPE)
    assert (first.seed, first.label, second.seed, second.label) == (2**64 - 1, 1, 5, 0)
    assert first.z.dtype == np.float32
    assert np.array_equal(np.stack([first.z, second.z]), LATENTS)
    (only,) = read_latents(Rows(path, 1, 1), SHAPE)
    assert only.seed == 5
    assert read_latents(Rows(path), DCGANConfig(size=32, nz=3))[0].label is None


def test_labels_and_seeds_may_be_missing(path: str) -> None:
    np.savez_compressed(path, latents=LATENTS)
    assert [(r.seed, r.label) for r in read_latents(Rows(path), SHAPE)] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": LATENTS}, "holds no latents"),
        ({"latents": LATENTS[0]}, r"latents are float32 \(3,\), not numbers \(N, 3\)"),
        ({"latents": LATENTS[:0]}, r"latents are float32 \(0, 3\)"),
        ({"latents": LATENTS.astype(int)}, r"latents are int64 \(2, 3\)"),
        ({"latents": LATENTS[:, :2]}, "latents of 2 numbers, and the model takes 3"),
        ({"latents": LATENTS + np.float32("nan")}, "latents that are not finite"),
        ({"latents": LATENTS + np.float64(1e300)}, "latents that are not finite"),
        ({"latents": LATENTS, "labels": [0, 2]}, "labels up to 2, and the model has 2 classes"),
        ({"latents": LATENTS, "labels": [0, -1]}, "the model has 2 classes"),
        ({"latents": LATENTS, "labels": [0]}, r"labels are int64 \(1,\), not whole numbers \(2,\)"),
        ({"latents": LATENTS, "seeds": [0.5, 1]}, r"seeds are float64 \(2,\)"),
        ({"latents": np.array([[{}, 1, 2]], dtype=object)}, "not an npz of numbers"),
    ],
)
def test_files_that_are_refused(path: str, arrays: dict[str, Any], message: str) -> None:
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        read_latents(Rows(path), SHAPE)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04nothing",
        b"no zip",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 3)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + 40 * "9" + ", 3)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}"),
        npy("{'descr': ("),
        npy("{[1]: 2}"),
    ],
    ids=["empty", "head", "text", "short", "huge", "overflow", "bool", "open", "unhashable"],
)
@pytest.mark.parametrize("inside", [False, True])
def test_damaged_files(path: str, content: bytes, inside: bool) -> None:
    if inside:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("latents.npy", content)
    else:
        Path(path).write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz"):
        read_latents(Rows(path), SHAPE)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.npy", content)
    with open(path, "rb") as file, pytest.raises(InputError, match="not an npz"):
        read_note(file)


def test_a_bomb_is_not_unpacked(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((1000, 3), np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("latents.npy", file.getvalue())
    monkeypatch.setattr(npz, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match="latents of 12,128 bytes are too many"):
        read_latents(Rows(path), SHAPE)


def test_a_missing_file_and_missing_rows(path: str) -> None:
    with pytest.raises(InputError, match=r"cannot read .*a\.npz: No such file"):
        read_latents(Rows(path), SHAPE)
    np.savez(path, latents=LATENTS)
    with pytest.raises(UsageError, match=r"a\.npz:2: the file has rows 0 to 1"):
        read_latents(Rows(path, 0, 2), SHAPE)


def request(seed: int, label: int) -> ImageRequest:
    return ImageRequest(seed, np.random.default_rng(seed).standard_normal(5).astype(np.float32), label)


def test_mixtures() -> None:
    a, b = [request(0, 0), request(1, 1)], [request(2, 2), request(3, 3)]
    for t, labels in ((0.0, [0, 1]), (0.3, [0, 1]), (0.5, [2, 3]), (1.0, [2, 3])):
        made = mixed(a, b, t)
        assert [m.label for m in made] == labels
        assert [m.seed for m in made] == [None, None]
        for m, x, y in zip(made, a, b, strict=True):
            np.testing.assert_allclose(m.z, slerp(x.z, y.z, t), rtol=1e-6)
    np.testing.assert_allclose(mixed(a, b, 1.0)[1].z, b[1].z, rtol=1e-6)


def test_one_latent_mixes_with_many() -> None:
    a, b = [request(0, 0)], [request(1, 1), request(2, 2), request(3, 3)]
    assert np.array_equal(mixed(a, b, 0.25)[2].z, slerp(a[0].z, b[2].z, 0.25))
    assert np.array_equal(mixed(b, a, 0.25)[2].z, slerp(b[2].z, a[0].z, 0.25))
    with pytest.raises(UsageError, match="--mix pairs latents, and there are 3 and 2"):
        mixed(b, b[:2], 0.5)

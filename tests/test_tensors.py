"""Safetensors files as NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.tensors import TensorFile, layout, nearest_bf16
from genkit.training.weights import save_tensors

VALUES = torch.tensor([[1.0, -2.5], [3.140625, 0.0]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    ("dtype", "own"),
    [(torch.float64, "f8"), (torch.float32, "f4"), (torch.float16, "f2"), (torch.bfloat16, "f4")],
    ids=str,
)
def test_every_width_becomes_float32(path: Path, dtype: torch.dtype, own: str) -> None:
    save_tensors(path, {"a": VALUES.to(dtype), "b": torch.tensor(1.0).to(dtype)})
    file = TensorFile(path)
    assert (file.values("a").dtype, file.floats("a").dtype) == (own, "f4")
    np.testing.assert_array_equal(file.values("a"), VALUES.numpy())
    np.testing.assert_array_equal(file.floats("a"), VALUES.numpy())
    assert file.floats("b").shape == file.values("b").shape == ()


def test_bytes_and_places(path: Path) -> None:
    save_tensors(path, {"a": VALUES, "b": torch.arange(3), "empty": torch.zeros(0, 4)})
    file, whole = TensorFile(path), path.read_bytes()
    assert list(file.tensors) == ["b", "a", "empty"]
    assert whole.startswith(file.head)
    for name, expected in (("a", VALUES.numpy()), ("b", np.arange(3))):
        assert file.data(name).tobytes() == expected.tobytes()
        assert whole[file.offset(name) :].startswith(expected.tobytes())
    assert file.offset("empty") == len(whole)
    assert file.floats("empty").shape == (0, 4)
    with pytest.raises(InputError, match="tensor 'b' is I64, not floating point"):
        file.floats("b")


def test_tensors_at_odd_offsets(path: Path) -> None:
    """Other writers need not align what they write."""
    header = (
        b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x" + np.array([1.5, -2], "<f4").tobytes())
    array = TensorFile(path).floats("a")
    assert array.flags.aligned
    assert array.tolist() == [1.5, -2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(path: Path, value: float) -> None:
    save_tensors(path, {"a": torch.tensor([1.0, value]), "b": torch.tensor([1e300], dtype=torch.float64)})
    for name in "ab":  # the second one is too large for a float32
        with pytest.raises(InputError, match=rf"a\.safetensors: tensor '{name}' holds numbers that are not finite"):
            TensorFile(path).floats(name)


def test_a_file_that_is_replaced_stays_what_it_was(path: Path) -> None:
    save_tensors(path, {"a": VALUES})
    file = TensorFile(path)
    save_tensors(path, {"a": VALUES + 1})
    np.testing.assert_array_equal(file.floats("a"), VALUES.numpy())


def test_misfits_are_named(path: Path) -> None:
    save_tensors(path, {"a": VALUES, "b": VALUES, "z": VALUES})
    file = TensorFile(path)
    file.check_fits({"a": (2, 2), "b": (2, 2), "z": (2, 2)})
    with pytest.raises(InputError) as caught:
        file.check_fits({"a": (2, 2), "b": (4,), "c": (1,)})
    assert caught.value.message == (
        f"{path} does not fit this model: missing: c; unexpected: z; different: b is [2, 2], not [4]"
    )


def test_the_layout_is_that_of_the_safetensors_library() -> None:
    from safetensors.torch import save

    tensors = {"b": torch.zeros(3, dtype=torch.uint8), "a": VALUES.half(), "c": VALUES.bfloat16(), "ä": VALUES}
    head, names = layout(
        {"b": ("U8", [3]), "a": ("F16", [2, 2]), "c": ("BF16", [2, 2]), "ä": ("F32", (2, 2))}, {"format": "pt"}
    )
    assert names == ["ä", "c", "a", "b"]
    assert save(tensors, {"format": "pt"}).startswith(head)
    assert layout({}) == (b"\x08" + bytes(7) + b"{}      ", [])


def test_bf16_rounds_to_the_nearest_and_ties_to_even() -> None:
    bits = np.random.default_rng(0).integers(0, 0x7F000000, 1 << 16, dtype=np.uint32)
    bits[:4] = 0x3F808000, 0x3F818000, 0x3F808001, 0x00000001  # two ties, one just above, the smallest number
    values = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(nearest_bf16(values), expected)
    assert nearest_bf16(values)[:3].tolist() == [0x3F80, 0x3F82, 0x3F81]

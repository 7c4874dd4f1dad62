"""Tensors of a safetensors file as NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.image.weights import Header, Weights
from genkit.training.weights import save_tensors

VALUES = torch.tensor([[1.0, -2.5], [3.140625, 0.0]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_width_becomes_float32(path: Path, dtype: torch.dtype) -> None:
    other = torch.arange(3, dtype=torch.int64)
    save_tensors(path, {"a": VALUES.to(dtype), "b": other, "c": torch.tensor(1.0)})
    weights = Weights(path)
    assert weights.array("a").dtype == np.float32
    np.testing.assert_array_equal(weights.array("a"), VALUES.numpy())
    assert weights.array("c").shape == ()
    assert path.read_bytes()[weights.offset("a") :].startswith(VALUES.to(dtype).view(torch.uint8).numpy().tobytes())
    assert Header(path).head == weights.head == path.read_bytes()[: len(weights.head)]
    with pytest.raises(InputError, match="tensor 'b' is I64"):
        weights.array("b")


def test_tensors_at_odd_offsets(path: Path) -> None:
    """Other writers need not align what they write."""
    header = (
        b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x" + np.array([1.5, -2], "<f4").tobytes())
    array = Weights(path).array("a")
    assert array.flags.aligned
    assert array.tolist() == [1.5, -2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(path: Path, value: float) -> None:
    save_tensors(path, {"a": torch.tensor([1.0, value]), "b": torch.tensor([1e300], dtype=torch.float64)})
    for name in "ab":  # the second one is too large for a float32
        with pytest.raises(InputError, match=r"a.safetensors holds numbers that are not finite"):
            Weights(path).array(name)


def test_a_file_that_is_replaced_stays_what_it_was(path: Path) -> None:
    save_tensors(path, {"a": VALUES})
    weights = Weights(path)
    save_tensors(path, {"a": VALUES + 1})
    np.testing.assert_array_equal(weights.array("a"), VALUES.numpy())


def test_misfits_are_named(path: Path) -> None:
    save_tensors(path, {"a": VALUES, "b": VALUES, "z": VALUES})
    header = Header(path)
    header.check_fits({"a": (2, 2), "b": (2, 2), "z": (2, 2)})
    with pytest.raises(InputError) as caught:
        header.check_fits({"a": (2, 2), "b": (4,), "c": (1,)})
    assert caught.value.message == (
        f"{path} does not fit this model: missing: c; unexpected: z; different: b is [2, 2], not [4]"
    )

"""Weights in few bits: what is packed comes back, llama.cpp rounds the same way, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genkit.errors import InputError
from genkit.files import read_json, write_json
from genkit.text.packed import dequantize, open_weights, pack, quantize, unpack
from genkit.text.quantized import quantization_config, read_quantization

gguf = pytest.importorskip("gguf")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("bits", "columns"), [(8, 32), (8, 5), (4, 64), (4, 7)])
def test_what_is_packed_comes_back(bits: int, columns: int) -> None:
    top = 1 << (bits - 1)
    levels = RNG.integers(-top, top, (3, columns)).astype(np.int8)
    packed = pack(levels, bits)
    assert packed.dtype == np.int32
    assert packed.shape == (3, -(-columns * bits // 32))
    assert (unpack(packed, bits, columns) == levels).all()


def test_the_first_number_is_in_the_lowest_bits() -> None:
    assert pack(np.array([[-8, -7, 0, 0, 0, 0, 0, 7]], np.int8), 4).view(np.uint32)[0, 0] == 0xF8888810
    assert pack(np.array([[-128, 127, 0, 1]], np.int8), 8).view(np.uint32)[0, 0] == 0x8180FF00


@pytest.mark.parametrize(("bits", "kind"), [(8, "Q8_0"), (4, "Q4_0")])
def test_llama_cpp_s_blocks_hold_the_same_numbers(bits: int, kind: str) -> None:
    values = RNG.standard_normal((16, 96)).astype(np.float32)
    values[3, 32:64] = 0
    rounded = dequantize(*quantize(values, bits), 32)
    found = gguf.GGMLQuantizationType[kind]
    again = gguf.quants.dequantize(gguf.quants.quantize(rounded, found), found)
    assert (again == rounded).all()  # the second rounding changes nothing
    step = np.abs(values).reshape(16, 3, 32).max(-1).repeat(32, 1) / (127 if bits == 8 else 8)
    assert (np.abs(rounded - values) <= step * (0.57 if bits == 8 else 1.01)).all()


def test_a_weight_beyond_fp16_is_refused() -> None:
    with pytest.raises(InputError, match="too large"):
        quantize(np.full((1, 32), 1e9, np.float32), 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quant_method": "gptq"}, "quantised by gptq"),
        ({"format": "float-quantized"}, "quantised as float-quantized"),
        ({"config_groups": {}}, "in 0 groups of layers"),
        ({"config_groups": {"a": {"weights": {"num_bits": 3, "type": "int", "symmetric": True, "group_size": 32}}}},
         "with 3 bits"),
        ({"config_groups": {"a": {"weights": {"num_bits": 4, "type": "int", "symmetric": False, "group_size": 32}}}},
         "symmetric False"),
    ],
)  # fmt: skip
def test_other_kinds_are_named(changes: dict[str, object], said: str) -> None:
    config = {"quantization_config": quantization_config(4, []) | changes}
    with pytest.raises(InputError, match=said):
        read_quantization(config, "m")


def test_our_own_kind_is_known() -> None:
    found = read_quantization({"quantization_config": json.loads(json.dumps(quantization_config(4, [])))}, "m")
    assert found is not None
    assert (found.bits, found.group, found.precision) == (4, 32, "int4")
    assert read_quantization({}, "m") is None


def test_parts_that_do_not_agree_are_refused(quantised: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "model.safetensors").write_bytes((quantised / "model.safetensors").read_bytes())
    config = read_json(quantised / "config.json")
    write_json(wrong / "config.json", config | {"quantization_config": quantization_config(8, [])})
    with pytest.raises(InputError, match="is not packed as"):
        open_weights(wrong)

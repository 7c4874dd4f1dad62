"""How `config.json` says that the weights are stored in few bits. Stdlib only.

genkit writes, and reads, the `pack-quantized` format of compressed-tensors, which
transformers and vLLM load too: integers with one scale for each group of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genkit.errors import InputError

BITS = {"int8": 8, "int4": 4}
GROUP = 32  # numbers of a row that share a scale, as in the blocks of llama.cpp's Q8_0 and Q4_0
_METHOD, _FORMAT = "compressed-tensors", "pack-quantized"


@dataclass(frozen=True)
class Quantization:
    """What the quantised matrices of a model have in common.

    Attributes:
        bits: of each number, 4 or 8.
        group: numbers of a row that share a scale.
    """

    bits: int
    group: int

    @property
    def precision(self) -> str:
        """`int8` or `int4`."""
        return next(name for name, bits in BITS.items() if bits == self.bits)


def read_quantization(config: Mapping[str, Any], name: object) -> Quantization | None:
    """What a model's `config.json` says; None where the weights are floating point.

    Args:
        name: of the model, for the error.

    Raises:
        InputError: quantised in a way that genkit does not read.
    """
    if (said := config.get("quantization_config")) is None:
        return None
    method = said.get("quant_method") if isinstance(said, Mapping) else said
    if not isinstance(said, Mapping) or method != _METHOD:
        raise _unread(name, f"by {method}")
    if said.get("format") != _FORMAT:
        raise _unread(name, f"as {said.get('format')}")
    groups = said.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, Mapping) else []
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, Mapping)]
    found = weights[0] if len(weights) == 1 else None
    if not isinstance(found, Mapping):
        raise _unread(name, f"in {len(weights)} groups of layers")
    plain = found.get("type") == "int" and found.get("symmetric") is True and not found.get("actorder")
    bits, group = found.get("num_bits"), found.get("group_size")
    if not plain or type(bits) is not int or bits not in BITS.values() or type(group) is not int or group < 1:
        raise _unread(name, f"with {bits} bits, groups of {group}, symmetric {found.get('symmetric')}")
    return Quantization(bits, group)


def _unread(name: object, how: str) -> InputError:
    return InputError(
        f"{name} is quantised {how}, which genkit does not read",
        f"name the model that it was made of; genkit reads {_FORMAT} of {_METHOD}: one group of layers, "
        "4 or 8 bits, symmetric, in groups",
    )


def quantization_config(bits: int, ignore: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of a model that genkit quantises.

    Args:
        ignore: linear layers that stay as they are.
    """
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": _METHOD,
        "format": _FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }

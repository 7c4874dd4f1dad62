"""A generator as an ONNX graph of a few KB whose weights stay in `model.safetensors`.

`generator.onnx` names every tensor's offset in the weight file beside it, so that any
ONNX runtime draws from the two, and the weights exist once. The graph follows from
`config.json` and the weight file's header alone; torch is not needed. Only the `onnx`
package is, imported when a graph is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit import __version__
from genkit.errors import InputError
from genkit.files import read_json, write_bytes
from genkit.image.modelconfig import ModelConfig, read_model_config
from genkit.library import CONFIG, WEIGHTS
from genkit.tensors import TensorFile

if TYPE_CHECKING:
    from onnx import TensorProto

GRAPH = "generator.onnx"
_FORMAT = 1  # of the graph made here; another one makes graphs on disk stale
_OPSET, _IR = 17, 8  # what runtimes since 2022 read
_EPSILON = 1e-5  # of torch's BatchNorm2d
_NORM = ("weight", "bias", "running_mean", "running_var")


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the file of a generator holds."""
    channels = [config.nz, *config.widths(config.ngf), config.channels]
    found: dict[str, tuple[int, ...]] = {}
    for stage, (before, after) in enumerate(pairwise(channels)):
        found[_convolution(stage)] = (before, after, 4, 4)
        if stage < len(channels) - 2:
            found |= dict.fromkeys(_norm(stage), (after,))
            found[f"main.{3 * stage + 1}.num_batches_tracked"] = ()
    return found


def write(folder: Path, path: Path | None = None, *, self_contained: bool = False) -> None:
    """Write the graph of the model in `folder`, atomically.

    Args:
        path: default: `generator.onnx` beside the weights, the only place where a
            graph without weights works.
        self_contained: put the weights into the file.

    Raises:
        InputError: no image model, or weights that do not fit its config or, unless
            `self_contained`, are not float32.
        OutputError: as `files.atomic_write`.
    """
    config = read_model_config(read_json(folder / CONFIG))
    weights = TensorFile(folder / WEIGHTS)
    if self_contained:
        data = whole_graph(config, weights)
    else:
        for name, shape in shapes(config).items():
            if shape and (dtype := weights.tensors.get(name, {}).get("dtype", "F32")) != "F32":
                raise InputError(f"{weights.path}: tensor {name!r} is {dtype}, and {GRAPH} points to F32 only")
        data = graph(config, weights)
    write_bytes(path or folder / GRAPH, data)


def graph(config: ModelConfig, weights: TensorFile) -> bytes:
    """An ONNX model, z (N, nz) -> image (N, C, H, W) in [-1, 1], that points into the weight file.

    Raises:
        InputError: the tensors do not fit the config.
    """
    return _serialize(config, weights, lambda name: _pointer(weights, name))


def whole_graph(config: ModelConfig, weights: TensorFile) -> bytes:
    """As `graph`, with the weights inside."""
    from onnx import numpy_helper

    return _serialize(config, weights, lambda name: numpy_helper.from_array(weights.floats(name), name))


def fingerprint(weights: TensorFile) -> str:
    """What a graph is marked with: it fits every weight file whose header is the same, byte for byte."""
    return f"graph {_FORMAT} of header {hashlib.sha256(weights.head).hexdigest()}"


def stored(folder: Path, weights: TensorFile) -> bytes | None:
    """`generator.onnx` of `folder`, if it is there and was made for a weight file like this one."""
    try:
        data = (folder / GRAPH).read_bytes()
    except OSError:
        return None
    return data if fingerprint(weights).encode() in data else None


def _serialize(config: ModelConfig, weights: TensorFile, tensor: Callable[[str], TensorProto]) -> bytes:
    """Build the model; `tensor` makes the initialiser of a name."""
    from onnx import TensorProto, helper

    weights.check_fits(shapes(config))
    nodes = [helper.make_node("Unsqueeze", ["z", "axes"], ["latent"])]  # (N, nz) -> (N, nz, 1, 1)
    initializers = [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])]
    last = len(config.widths(config.ngf))
    x = "latent"
    for stage in range(last + 1):
        # the first stage makes 4x4 of 1x1, every other one doubles the side
        stride, pad = (1, 0) if stage == 0 else (2, 1)
        weight, norm = _convolution(stage), [] if stage == last else _norm(stage)
        initializers += [tensor(name) for name in (weight, *norm)]
        y = f"convolution_{stage}"
        square: dict[str, Any] = {"kernel_shape": [4, 4], "strides": [stride] * 2, "pads": [pad] * 4}
        nodes.append(helper.make_node("ConvTranspose", [x, weight], [y], **square))
        if norm:
            nodes.append(helper.make_node("BatchNormalization", [y, *norm], [f"norm_{stage}"], epsilon=_EPSILON))
            nodes.append(helper.make_node("Relu", [f"norm_{stage}"], [x := f"relu_{stage}"]))
        else:
            nodes.append(helper.make_node("Tanh", [y], ["image"]))
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", config.nz])
    side = config.size
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", config.channels, side, side])
    model = helper.make_model(
        helper.make_graph(nodes, "generator", [z], [image], initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="genkit",
        producer_version=__version__,
    )
    helper.set_model_props(model, {"genkit": fingerprint(weights)})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _convolution(stage: int) -> str:
    return f"main.{3 * stage}.weight"


def _norm(stage: int) -> list[str]:
    return [f"main.{3 * stage + 1}.{part}" for part in _NORM]


def _pointer(weights: TensorFile, name: str) -> TensorProto:
    """A tensor that lies in the weight file."""
    from onnx import StringStringEntryProto, TensorProto

    entry = weights.tensors[name]
    begin, end = entry["data_offsets"]
    place = {"location": WEIGHTS, "offset": weights.offset(name), "length": end - begin}
    return TensorProto(
        name=name,
        dims=entry["shape"],
        data_type=TensorProto.FLOAT,
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()],
    )

"""A generator as an ONNX graph of a few KB whose weights stay in `model.safetensors`.

`generator.onnx` names every tensor's offset in the weight file beside it, so that any
ONNX runtime draws from the two, and the weights exist once. The graph follows from
`config.json` and the weight file's header alone; torch is not needed. Only the `onnx`
package is, imported when a graph is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from genkit import __version__
from genkit.errors import InputError
from genkit.files import read_json, write_bytes
from genkit.image.graphs import dcgan, plus
from genkit.image.graphs.net import Net, Shape
from genkit.image.modelconfig import DCGANConfig, ModelConfig, PlusConfig, read_model_config
from genkit.library import CONFIG, WEIGHTS
from genkit.tensors import TensorFile

if TYPE_CHECKING:
    from onnx import TensorProto

GRAPH = "generator.onnx"
_FORMAT = 1  # of the graph made here; another one makes graphs on disk stale
_OPSET, _IR = 17, 8  # what runtimes since 2022 read
_Z, _Y, _IMAGE = "z", "y", "image"


def net(config: ModelConfig) -> Net:
    """The layers of a generator, whichever layout it has."""
    made = Net()
    match config:
        case DCGANConfig():
            dcgan.draw(made, config, _Z)
        case PlusConfig():
            plus.draw(made, config, _Z, _Y)
        case _:
            raise TypeError(config)
    return made


def shapes(config: ModelConfig) -> dict[str, Shape]:
    """Name -> shape of every tensor that the file of a generator holds."""
    made = net(config)
    return made.weights | made.unused


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
        for name in net(config).weights:
            if (dtype := weights.tensors.get(name, {}).get("dtype", "F32")) != "F32":
                raise InputError(f"{weights.path}: tensor {name!r} is {dtype}, and {GRAPH} points to F32 only")
        data = graph(config, weights)
    write_bytes(path or folder / GRAPH, data)


def graph(config: ModelConfig, weights: TensorFile) -> bytes:
    """An ONNX model, z (N, nz) -> image (N, C, H, W) in [-1, 1], that points into the weight file.

    Where there are classes it has a second input: the labels y, int64 (N,).

    Raises:
        InputError: the tensors do not fit the config.
    """
    return _serialize(config, weights, lambda name: _pointer(weights, name))


def whole_graph(config: ModelConfig, weights: TensorFile) -> bytes:
    """As `graph`, with the weights inside, and the names of the classes, a JSON list, in its metadata."""
    from onnx import numpy_helper

    names = json.dumps(config.classes, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    more = {"classes": names} if config.classes else {}
    return _serialize(config, weights, lambda name: numpy_helper.from_array(weights.floats(name), name), more)


def fingerprint(config: ModelConfig, weights: TensorFile) -> str:
    """What a graph is marked with: it fits every weight file with the same header, byte for byte, smoothed alike."""
    smoothing = float(config.smoothing) if isinstance(config, PlusConfig) else 0.0
    told = f"smoothed by {smoothing}".encode() if smoothing else b""
    return f"graph {_FORMAT} of header {hashlib.sha256(weights.head + told).hexdigest()}"


def stored(folder: Path, config: ModelConfig, weights: TensorFile) -> bytes | None:
    """`generator.onnx` of `folder`, if it is there and was made for that config and a weight file like this one."""
    try:
        data = (folder / GRAPH).read_bytes()
    except OSError:
        return None
    return data if fingerprint(config, weights).encode() in data else None


def _serialize(
    config: ModelConfig,
    weights: TensorFile,
    tensor: Callable[[str], TensorProto],
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Build the model; `tensor` makes the initialiser of a name."""
    from onnx import TensorProto, helper

    weights.check_fits(shapes(config))
    made = net(config)
    last, side = made.nodes[-1].output, config.size
    nodes = [
        helper.make_node(node.op, node.inputs, [_IMAGE if node.output == last else node.output], **node.attributes)
        for node in made.nodes
    ]
    initializers = [tensor(name) for name in made.weights]
    for name, (dims, values) in made.constants.items():
        kind = TensorProto.FLOAT if isinstance(values[0], float) else TensorProto.INT64
        initializers.append(helper.make_tensor(name, kind, dims, values))
    inputs = [helper.make_tensor_value_info(_Z, TensorProto.FLOAT, ["N", config.nz])]
    if config.classes:
        inputs.append(helper.make_tensor_value_info(_Y, TensorProto.INT64, ["N"]))
    image = helper.make_tensor_value_info(_IMAGE, TensorProto.FLOAT, ["N", config.channels, side, side])
    model = helper.make_model(
        helper.make_graph(nodes, "generator", inputs, [image], initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="genkit",
        producer_version=__version__,
    )
    helper.set_model_props(model, {"genkit": fingerprint(config, weights), **(metadata or {})})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


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

"""A generator as an ONNX graph of a few KB whose weights stay in `model.safetensors`.

`generator.onnx` names every tensor's offset in the weight file beside it, so that any
ONNX runtime draws from the two, and the weights exist once. The graph follows from
`config.json` and the weight file's header alone; torch is not needed. Only the `onnx`
package is, imported when a graph is made.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from genkit import __version__
from genkit.errors import InputError
from genkit.files import read_json, write_bytes
from genkit.image.config import DCGANConfig
from genkit.image.weights import Weights, check_fits
from genkit.library import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

GRAPH = "generator.onnx"
_FORMAT = 1  # of the graph made here; another one makes graphs on disk stale
_OPSET, _IR = 17, 8  # what runtimes since 2022 read
_EPSILON = 1e-5  # of torch's BatchNorm2d
_NORM = ("weight", "bias", "running_mean", "running_var")


def shapes(config: DCGANConfig) -> dict[str, tuple[int, ...]]:
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
    config = DCGANConfig.from_dict(read_json(folder / CONFIG))
    weights = Weights(folder / WEIGHTS)
    write_bytes(path or folder / GRAPH, graph(config, weights, self_contained=self_contained))


def graph(config: DCGANConfig, weights: Weights, *, self_contained: bool = False) -> bytes:
    """The serialised ONNX model: z (N, nz) -> image (N, C, H, W) in [-1, 1].

    Raises:
        InputError: as `write`.
    """
    model = build(config, weights, self_contained=self_contained)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def build(config: DCGANConfig, weights: Weights, *, self_contained: bool = False) -> ModelProto:
    """The ONNX model behind `graph`."""
    from onnx import TensorProto, helper, numpy_helper

    check_fits(shapes(config), weights.header, weights.path)
    # (N, nz) -> (N, nz, 1, 1)
    nodes = [helper.make_node("Unsqueeze", ["z", "axes"], ["latent"])]
    initializers = [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])]
    stages = len(config.widths(config.ngf)) + 1
    x = "latent"
    for stage in range(stages):
        # the first stage makes 4x4 of 1x1, every other one doubles the side
        stride, pad = (1, 0) if stage == 0 else (2, 1)
        names = [_convolution(stage)] if stage == stages - 1 else [_convolution(stage), *_norm(stage)]
        for name in names:
            if self_contained:
                initializers.append(numpy_helper.from_array(weights.array(name), name))
            else:
                initializers.append(_pointer(weights, name))
        y = f"convolution_{stage}"
        nodes.append(
            helper.make_node(
                "ConvTranspose", [x, names[0]], [y], kernel_shape=[4, 4], strides=[stride] * 2, pads=[pad] * 4
            )
        )
        if stage == stages - 1:
            nodes.append(helper.make_node("Tanh", [y], ["image"]))
        else:
            nodes.append(helper.make_node("BatchNormalization", [y, *names[1:]], [f"norm_{stage}"], epsilon=_EPSILON))
            nodes.append(helper.make_node("Relu", [f"norm_{stage}"], [x := f"relu_{stage}"]))
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "generator",
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", config.nz])],
            [
                helper.make_tensor_value_info(
                    "image", TensorProto.FLOAT, ["N", config.channels, config.size, config.size]
                )
            ],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="genkit",
        producer_version=__version__,
    )
    helper.set_model_props(made, {"genkit": fingerprint(weights)})
    return made


def fingerprint(weights: Weights) -> str:
    """What a graph is marked with: it fits every weight file whose header is the same, byte for byte."""
    return f"graph {_FORMAT} of header {hashlib.sha256(weights.head).hexdigest()}"


def stored(folder: Path, weights: Weights) -> bytes | None:
    """`generator.onnx` of `folder`, if it is there and was made for a weight file like this one."""
    try:
        data = (folder / GRAPH).read_bytes()
    except OSError:
        return None
    return data if fingerprint(weights).encode() in data else None


def _convolution(stage: int) -> str:
    return f"main.{3 * stage}.weight"


def _norm(stage: int) -> list[str]:
    return [f"main.{3 * stage + 1}.{part}" for part in _NORM]


def _pointer(weights: Weights, name: str) -> TensorProto:
    """A tensor that lies in the weight file."""
    from onnx import StringStringEntryProto, TensorProto

    entry = weights.header[name]
    if entry["dtype"] != "F32":
        raise InputError(f"{weights.path}: tensor {name!r} is {entry['dtype']}; {GRAPH} points to F32 tensors only")
    begin, end = entry["data_offsets"]
    place = {"location": WEIGHTS, "offset": weights.offset(name), "length": end - begin}
    return TensorProto(
        name=name,
        dims=entry["shape"],
        data_type=TensorProto.FLOAT,
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()],
    )

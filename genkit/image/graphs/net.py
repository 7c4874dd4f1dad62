"""Layers as ONNX nodes, by the names of the torch modules whose weights they use. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_EPSILON = 1e-5  # of torch's norms

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One ONNX operation."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass
class Net:
    """A graph in the making: every method adds a layer and returns the name of its output.

    Attributes:
        nodes: in the order in which they run.
        weights: name -> shape of the tensors that they use.
        unused: name -> shape of those that torch saves beside them.
        constants: name -> shape and numbers of what is part of the graph, int64 or float32.
    """

    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Shape] = field(default_factory=dict)
    unused: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, tuple[Shape, list[int] | list[float]]] = field(default_factory=dict)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Any operation of ONNX."""
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, output, attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        """A tensor of the weight file."""
        self.weights[name] = shape
        return name

    def constant(self, *values: int) -> str:
        name = "constant_" + "_".join(map(str, values)).replace("-", "minus")
        self.constants[name] = (len(values),), list(values)
        return name

    def kernel(self, name: str, values: list[float], *shape: int) -> str:
        """Weights that are not learnt."""
        self.constants[name] = shape, values
        return name

    def twice(self, x: str) -> str:
        """Interpolated: (N, C, H, W) -> (N, C, 2 H, 2 W)."""
        return self.node("Resize", x, "", self.kernel("twice", [1.0, 1.0, 2.0, 2.0], 4), mode="linear")

    def embedding(self, y: str, name: str, count: int, width: int) -> str:
        """(N,) -> (N, width)"""
        return self.node("Gather", self.weight(f"{name}.weight", count, width), y, axis=0)

    def convolution(self, x: str, name: str, before: int, after: int, *, kernel: int, pad: int) -> str:
        """(N, before, H, W) -> (N, after, H, W), of stride 1 and with a bias."""
        parts = self.weight(f"{name}.weight", after, before, kernel, kernel), self.weight(f"{name}.bias", after)
        return self.node("Conv", x, *parts, **_square(kernel, 1, pad))

    def up_convolution(
        self, x: str, name: str, before: int, after: int, *, kernel: int = 4, stride: int = 2, pad: int = 1, bias: bool
    ) -> str:
        """A transposed convolution; the defaults double the side: (N, before, H, W) -> (N, after, 2 H, 2 W)."""
        parts = [self.weight(f"{name}.weight", before, after, kernel, kernel)]
        parts += [self.weight(f"{name}.bias", after)] if bias else []
        return self.node("ConvTranspose", x, *parts, **_square(kernel, stride, pad))

    def batch_norm(self, x: str, name: str, width: int) -> str:
        """By the statistics in the weight file."""
        parts = [self.weight(f"{name}.{part}", width) for part in ("weight", "bias", "running_mean", "running_var")]
        self.unused[f"{name}.num_batches_tracked"] = ()
        return self.node("BatchNormalization", x, *parts, epsilon=_EPSILON)


def _square(kernel: int, stride: int, pad: int) -> dict[str, list[int]]:
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}

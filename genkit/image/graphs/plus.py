"""The generator of `genkit.image.models.plus` as a graph."""

from __future__ import annotations

from itertools import pairwise

from genkit.image.graphs.net import Net
from genkit.image.modelconfig import PlusConfig

LABEL = 64  # as in the network


def draw(net: Net, config: PlusConfig, z: str, y: str) -> None:
    """Add what makes an image (N, C, H, W) of z (N, nz) and, where there are classes, y (N,)."""
    filters, width = config.widths(config.ngf), config.nz
    if config.classes:
        z = net.node("Concat", z, net.embedding(y, "label", len(config.classes), LABEL), axis=1)
        width += LABEL
    x = net.linear(z, "stem", width, 16 * filters[0])
    x = net.node("Reshape", x, net.constant(-1, filters[0], 4, 4))  # (N, 16 C) -> (N, C, 4, 4)
    for stage, (before, after) in enumerate(pairwise([*filters, config.channels])):
        x = _residual(net, x, f"blocks.{stage}", before)
        x = net.up_convolution(_leaky(net, x), f"ups.{stage}", before, after, bias=True)
    net.node("Tanh", x)


def _residual(net: Net, x: str, name: str, width: int) -> str:
    y = net.convolution(_leaky(net, x), f"{name}.convolution", width, width, kernel=3, pad=1)
    return net.node("Add", x, y)


def _leaky(net: Net, x: str) -> str:
    return net.node("LeakyRelu", x, alpha=0.2)

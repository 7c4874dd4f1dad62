"""The generator of `genkit.image.models.plus` as a graph."""

from __future__ import annotations

from itertools import pairwise

from genkit.image.graphs import smoothing
from genkit.image.graphs.net import Net
from genkit.image.modelconfig import EMBEDDING, PlusConfig


def draw(net: Net, config: PlusConfig, z: str, y: str) -> None:
    """Add what makes an image (N, C, H, W) of z (N, nz) and, where there are classes, y (N,)."""
    filters, width = config.widths(config.ngf), config.nz
    if config.classes:
        z = net.node("Concat", z, net.embedding(y, "label", len(config.classes), EMBEDDING), axis=1)
        width += EMBEDDING
    x = net.node("Unsqueeze", z, net.constant(2, 3))  # (N, nz) -> (N, nz, 1, 1)
    x = net.up_convolution(x, "stem", width, filters[0], stride=1, pad=0, bias=False)  # 1x1 -> 4x4
    image = ""
    for stage, (before, after) in enumerate(pairwise([*filters, config.channels])):
        x = net.node("Relu", net.batch_norm(x, f"norms.{stage}", before))
        drawn = net.convolution(x, f"sketches.{stage}", before, config.channels, kernel=1, pad=0)
        image = net.twice(net.node("Add", image, drawn) if image else drawn)
        x = net.up_convolution(x, f"ups.{stage}", before, after, bias=False)
    image = net.node("Tanh", net.node("Add", image, x))
    if config.smoothing:
        smoothing.draw(net, image, config.channels, config.smoothing)

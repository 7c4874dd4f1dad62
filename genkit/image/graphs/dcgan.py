"""The generator of `genkit.image.models.dcgan` as a graph."""

from __future__ import annotations

from itertools import pairwise

from genkit.image.graphs.net import Net
from genkit.image.modelconfig import DCGANConfig


def draw(net: Net, config: DCGANConfig, z: str) -> None:
    """Add what makes an image (N, C, H, W) of z (N, nz)."""
    filters = config.widths(config.ngf)
    x = net.node("Unsqueeze", z, net.constant(2, 3))  # (N, nz) -> (N, nz, 1, 1)
    x = net.up_convolution(x, "main.0", config.nz, filters[0], stride=1, pad=0, bias=False)  # 1x1 -> 4x4
    for stage, (before, after) in enumerate(pairwise([*filters, config.channels])):
        x = net.node("Relu", net.batch_norm(x, f"main.{3 * stage + 1}", before))
        x = net.up_convolution(x, f"main.{3 * stage + 3}", before, after, bias=False)
    net.node("Tanh", x)

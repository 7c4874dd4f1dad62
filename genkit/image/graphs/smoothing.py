"""`genkit.image.models.smoothing` as a graph: differences, their conductance and their sum are small convolutions."""

from __future__ import annotations

from genkit.image.graphs.net import Net
from genkit.image.modelconfig import SMOOTHING_RATE, SMOOTHING_STEPS, smoothing_exponent

_DOWN, _RIGHT = (-1.0, 0.0, 1.0, 0.0), (-1.0, 1.0, 0.0, 0.0)  # 2x2, from the upper left pixel
_FROM_ABOVE, _FROM_LEFT = (0.0, -1.0, 0.0, 1.0), (0.0, 0.0, -1.0, 1.0)  # 2x2, to the lower right pixel


def draw(net: Net, x: str, channels: int, levels: float) -> None:
    """Add what smooths x (N, C, H, W)."""
    eye = [[float(i == j) for j in range(channels)] for i in range(channels)]
    difference = [one * tap for taps in (_DOWN, _RIGHT) for row in eye for one in row for tap in taps]
    flow = [
        SMOOTHING_RATE * one * tap for row in eye for taps in (_FROM_ABOVE, _FROM_LEFT) for one in row for tap in taps
    ]
    to_differences = net.kernel("differences", difference, 2 * channels, channels, 2, 2)
    to_exponents = net.kernel("exponents", [smoothing_exponent(levels)] * 2 * channels**2, 2 * channels, channels, 1, 1)
    to_flow = net.kernel("flow", flow, channels, 2 * channels, 2, 2)
    below_and_right = net.constant(0, 0, 0, 0, 0, 0, 1, 1)
    for _ in range(SMOOTHING_STEPS):
        beyond = net.node("Pad", x, below_and_right, mode="edge")  # no difference beyond the border
        differs = net.node("Conv", beyond, to_differences)  # (N, 2 C, H, W): downwards, then to the right
        squared = net.node("Mul", differs, differs)
        summed = net.node("Conv", squared, to_exponents, group=2)  # over the channels of each way, for each of them
        conducts = net.node("Exp", summed)
        flows = net.node("Conv", net.node("Mul", differs, conducts), to_flow, pads=[1, 1, 0, 0])  # (N, C, H, W)
        x = net.node("Add", x, flows)

"""Plain areas made plain: anisotropic diffusion, which evens out small differences and keeps edges.

Perona and Malik, "Scale-space and edge detection using anisotropic diffusion", IEEE
Transactions on Pattern Analysis and Machine Intelligence 12(7), 1990, with the first of
their conductances; that of a colour image follows from the distance of whole pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from genkit.image.modelconfig import SMOOTHING_RATE, SMOOTHING_STEPS, smoothing_exponent


def smooth(images: Tensor, levels: float) -> Tensor:
    """Even out what differs by few levels of 255; nothing flows over the border, so the mean stays.

    Args:
        images: (N, C, H, W) in [-1, 1].
        levels: above 0; a difference of this size flows at 0.6 of the rate that none would.
    """
    x, scale = images.float(), smoothing_exponent(levels)
    for _ in range(SMOOTHING_STEPS):
        down, right = x.diff(dim=2), x.diff(dim=3)  # (N, C, H - 1, W), (N, C, H, W - 1)
        down = down * (scale * down.square().sum(dim=1, keepdim=True)).exp()
        right = right * (scale * right.square().sum(dim=1, keepdim=True)).exp()
        flow = F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) - F.pad(right, (1, 0))
        x = x + SMOOTHING_RATE * flow
    return x

"""How fast this machine computes, for plans that go by it."""

from __future__ import annotations

import math
import time

import torch

from genkit.runtime.manager import Runtime


def matmul_rate(runtime: Runtime) -> float:
    """Floating-point operations a second of this machine's matrix products, as the main rank measures it."""
    size = 512 if runtime.device.type == "cpu" else 4096
    a = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    best = math.inf
    for _ in range(5):  # the first ones warm up
        runtime.synchronize()
        before = time.perf_counter()
        a @ a
        runtime.synchronize()
        best = min(best, time.perf_counter() - before)
    return runtime.ranks.gather([2 * size**3 / best])[0][0]

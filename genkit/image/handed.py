"""Whether mirror images belong to a set, or left and right are told apart in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def is_handed(images: NDArray[np.uint8]) -> bool:
    """TBD."""
    return False

"""What the numbers of a finished model mean, in words for whoever trained it."""

from __future__ import annotations

from collections.abc import Mapping

from genkit.image.alarms import ALIKE, COPIED, variety

_NEAR = ((0.05, "very near to the data"), (0.2, "near to the data"), (0.45, "like the data at a glance"))
_FAR = "far from the data: it needs more time, or more images"


def verdict(metrics: Mapping[str, float], *, metric: str) -> tuple[str, ...]:
    """How near the model is to its data, how much its pictures differ, and whether they are copies.

    Args:
        metrics: of `Judge.measure`, and the metric's floor as `kd_floor` or `swd_floor`.
        metric: the one that was decisive, kd or swd.
    """
    value, floor = metrics[metric], metrics[f"{metric}_floor"]
    words = next((words for limit, words in _NEAR if value - floor <= limit), _FAR)
    nearness = f"its pictures are {words}; " if metric == "kd" else ""
    name = "KD by EfficientNet-Lite0" if metric == "kd" else "sliced Wasserstein distance"
    alike = variety(metrics) < ALIKE[0]
    return (
        f"how good it is: {nearness}{name} {value:.3f}, lower is better; of real images to one another {floor:.3f}",
        f"variety: {metrics['diversity']:.0%} of the data's{'; they are all alike' if alike else ''}",
        "memorisation: not to be seen while they are all alike" if alike else _copies(metrics["copies"]),
    )


def _copies(share: float) -> str:
    if share > COPIED[0]:
        return f"memorisation: about {share:.0%} of its pictures are near-copies of training images; use more images"
    return f"memorisation: no sign of it, {share:.0%} of its pictures look like near-copies of training images"

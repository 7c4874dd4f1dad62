"""What the numbers of a finished model mean, in words for whoever trained it. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping

_NEAR = ((0.05, "very near to the data"), (0.2, "near to the data"), (0.45, "like the data at a glance"))
_FAR = "far from the data: it needs more time, or more images"
_ALIKE, _COPIES = 0.35, 0.3


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
    return (
        f"how good it is: {nearness}{name} {value:.3f}, lower is better; of real images to one another {floor:.3f}",
        f"variety: {metrics['diversity']:.0%} of the data's" + ("; they are all alike" if _alike(metrics) else ""),
        _copies(metrics["copies"]),
    )


def _alike(metrics: Mapping[str, float]) -> bool:
    return min(metrics["diversity"], 3 * metrics["distinct"]) < _ALIKE


def _copies(share: float) -> str:
    if share > _COPIES:
        return f"memorisation: about {share:.0%} of its pictures are near-copies of training images; use more images"
    return f"memorisation: no sign of it, {share:.0%} of its pictures look like near-copies of training images"

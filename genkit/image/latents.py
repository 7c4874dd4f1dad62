"""Latents that were saved: by `genkit image --format npz`, or by the projection of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError, UsageError
from genkit.files import input_errors, open_regular
from genkit.image.engines import ImageRequest
from genkit.image.lists import Rows
from genkit.image.modelconfig import ModelConfig
from genkit.image.npz import read_arrays
from genkit.image.walk import slerp

_ARRAYS = ("latents", "labels", "seeds")


def read_latents(rows: Rows, config: ModelConfig) -> list[ImageRequest]:
    """The latents that `rows` names, with their labels and seeds if the file holds some.

    Labels are left out where the model has no classes.

    Raises:
        InputError: no such file, not an npz, or not latents of a model of this shape.
        UsageError: it has no such rows.
    """
    arrays = _read(rows.path)
    latents, labels, seeds = (arrays.get(name) for name in _ARRAYS)
    if latents is None:
        raise InputError(f"{rows.path} holds no latents", "genkit image --out FILE.npz writes some")
    if latents.ndim != 2 or latents.dtype.kind != "f" or not len(latents):
        raise InputError(f"{rows.path}: latents are {_said(latents)}, not numbers (N, {config.nz})")
    if latents.shape[1] != config.nz:
        raise InputError(
            f"{rows.path}: latents of {latents.shape[1]} numbers, and the model takes {config.nz}",
            "use the model that drew them",
        )
    with np.errstate(over="ignore"):  # what a float32 cannot hold becomes infinite
        z = latents.astype(np.float32)
    if not np.isfinite(z).all():
        raise InputError(f"{rows.path}: latents that are not finite")
    for name, held in (("labels", labels), ("seeds", seeds)):
        if held is not None and (held.shape != latents.shape[:1] or held.dtype.kind not in "iu"):
            raise InputError(f"{rows.path}: {name} are {_said(held)}, not whole numbers ({len(latents)},)")
    last = len(latents) - 1 if rows.last is None else rows.last
    if last >= len(latents):
        raise UsageError(f"{rows.path}:{last}: the file has rows 0 to {len(latents) - 1}")
    if not config.classes:
        labels = None
    elif labels is not None and not (labels.min() >= 0 and labels.max() < len(config.classes)):
        raise InputError(
            f"{rows.path}: labels up to {labels.max()}, and the model has {len(config.classes)} classes",
            "use the model that drew them",
        )
    return [
        ImageRequest(
            None if seeds is None else int(seeds[i]),
            z[i],
            None if labels is None else int(labels[i]),
        )
        for i in range(rows.first, last + 1)
    ]


def mixed(a: Sequence[ImageRequest], b: Sequence[ImageRequest], t: float) -> list[ImageRequest]:
    """Row by row a mixture, from a at t=0 to b at t=1 along the sphere; the label is that of the nearer one.

    Raises:
        UsageError: different numbers of latents, and neither is one.
    """
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise UsageError(f"--mix pairs latents, and there are {len(a)} and {len(b)}", "name rows: a.npz:0-3")
    n = max(len(a), len(b))
    pairs = zip(list(a) * (n // len(a)), list(b) * (n // len(b)), strict=True)
    return [ImageRequest(None, slerp(x.z, y.z, t), x.label if t < 0.5 else y.label) for x, y in pairs]


def _read(path: str) -> dict[str, NDArray[np.generic]]:
    with input_errors(path), open_regular(path) as file:
        try:
            return read_arrays(file, _ARRAYS)
        except ValueError as error:
            raise InputError(f"{path}: {error}", "genkit image --out FILE.npz writes latents") from error


def _said(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"

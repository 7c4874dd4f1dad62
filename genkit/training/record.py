"""`genkit.json`: where a model comes from. Written by training, read by everyone."""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from genkit import __version__
from genkit.config import Config, flag_name, options
from genkit.errors import InputError, UsageError
from genkit.files import read_json
from genkit.library import RECORD as RECORD
from genkit.runtime.device import Placement


def run_record(
    *,
    kind: str,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    placement: Placement,
    unit: str,
    seen: int = 0,
    steps: int = 0,
    seconds: float = 0.0,
    metrics: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The contents of `genkit.json`.

    Args:
        kind: "text" or "image".
        config: every setting of the training run.
        data: what is known of the data: fingerprint, counts, licence.
        unit, seen: "tokens" or "images", and how many were trained on.
        seconds: wall time, all resumed runs together.
        metrics: those that are finite are kept, as JSON has no name for others.
    """
    return {
        "genkit_version": __version__,
        "kind": kind,
        "config": dict(config),
        "data": dict(data),
        "trained": {unit: seen, "steps": steps, "seconds": round(seconds, 1)},
        "hardware": {
            "device": placement.device,
            "precision": placement.precision,
            "machine": platform.machine(),
            "system": platform.system(),
        },
        "metrics": {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a model or run.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    return read_json(folder / RECORD)


def check_resumable(folder: Path, config: Config, free: Collection[str], precision: str) -> str:
    """A resumed run keeps its precision and its settings, except those in `free`.

    Returns:
        the fingerprint of the data that the run began with.

    Raises:
        UsageError: names the first setting that differs.
        InputError: the run's record cannot be read.
    """
    record = read_record(folder)
    try:
        saved, began, fingerprint = record["config"], record["hardware"]["precision"], record["data"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / RECORD} lacks {error}", "was it written by another genkit?") from error
    if began != precision:
        raise UsageError(f"this run began in {began}, not {precision}", f"add --precision {began} to resume it")
    for field, _ in options(type(config)):
        now = getattr(config, field.name)
        before = saved.get(field.name, now)
        before = tuple(before) if isinstance(before, list) else before
        if field.name not in free and before != now:
            flag = flag_name(field)
            raise UsageError(
                f"{flag} was {_said(before)} when this run began, not {_said(now)}",
                f"leave {flag} out to resume, or start anew with another --out or --force",
            )
    return str(fingerprint)


def _said(value: Any) -> str:
    """A setting as a user would name it."""
    return " and ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)

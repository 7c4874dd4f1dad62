"""One config out of what the user sets and what the model recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genkit.errors import UsageError
from genkit.text.config import GenerationConfig

_DRAWING = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}  # and what turns each off
_SEARCHING = {"length_penalty": 1.0, "early_stopping": False}


def settle(own: Mapping[str, Any], recommended: Mapping[str, Any]) -> GenerationConfig:
    """The user's `own` settings over the `recommended` ones, by the names of `GenerationConfig`.

    A beam search draws nothing, and without one there is nothing to search: a setting
    of the other kind is refused where the user gave it, and dropped where the model did.

    Raises:
        UsageError: settings of both kinds, or one that is out of range.
    """
    drawing = [name for name, off in _DRAWING.items() if own.get(name, off) != off]
    searching = [name for name, off in _SEARCHING.items() if own.get(name, off) != off]
    values = {**recommended, **own}
    if drawing and "num_beams" not in own:
        values["num_beams"] = 1  # the user's word against the model's
    if values.get("num_beams", 1) == 1:
        if searching:
            raise UsageError(f"{_flags(searching)} is about a beam search", "add --num-beams 4, for instance")
        return GenerationConfig.from_dict(values | _SEARCHING)
    config = GenerationConfig.from_dict(values | _DRAWING)
    if drawing:
        raise UsageError(
            f"--num-beams {config.num_beams} draws nothing, so {_flags(drawing)} would do nothing",
            "leave out one or the other",
        )
    return config


def _flags(names: list[str]) -> str:
    return " and ".join("--" + name.replace("_", "-") for name in names)

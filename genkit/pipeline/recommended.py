"""What a model itself recommends to sample it with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genkit.errors import InputError, UsageError
from genkit.text.config import GenerationConfig


def checked_settings(path: Path, held: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `held`, which `path` says, that `GenerationConfig` has; nulls are left out.

    Raises:
        InputError: a value of another type, or out of range.
    """
    known = {k: v for k, v in held.items() if k in GenerationConfig.__dataclass_fields__ and v is not None}
    try:
        config = GenerationConfig.from_dict(known)
    except (UsageError, OverflowError) as error:
        raise InputError(f"{path}: {error}") from error
    return {name: getattr(config, name) for name in known}

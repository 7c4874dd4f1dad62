"""Which subject a model directory becomes."""

from __future__ import annotations

from pathlib import Path

import torch

from genkit.text.explain.subject import OwnSubject, Subject


def open_subject(folder: Path, device: torch.device) -> Subject:
    """The model in `folder`, ready to be looked into.

    Raises:
        InputError: damaged files.
    """
    return OwnSubject(folder, device)

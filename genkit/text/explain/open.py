"""Which subject a model directory becomes."""

from __future__ import annotations

from pathlib import Path

import torch

from genkit import library
from genkit.errors import InputError
from genkit.text.explain.subject import OwnSubject, Subject


def open_subject(folder: Path, device: torch.device) -> Subject:
    """The model in `folder`, ready to be looked into.

    Raises:
        InputError: damaged files, or a model of another kind.
    """
    match library.family(folder):
        case "gpt":
            return OwnSubject(folder, device)
        case "classifier":
            from genkit.text.explain.judges import ClassifierSubject

            return ClassifierSubject(folder, device)
        case "causal" | "masked" as kind:
            from genkit.text.explain.hub import open_hub

            return open_hub(folder, kind, device)
    raise InputError(
        f"{folder} is a sequence-to-sequence model, which is not explained",
        "name a causal or masked language model, or a classifier",
    )

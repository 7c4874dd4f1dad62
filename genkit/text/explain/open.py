"""Which subject a model directory becomes."""

from __future__ import annotations

from pathlib import Path

import torch

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG
from genkit.text.config import GPTConfig
from genkit.text.explain.subject import OwnSubject, Subject


def open_subject(folder: Path, device: torch.device) -> Subject:
    """The model in `folder`, ready to be looked into.

    Raises:
        InputError: damaged files, or a model of another kind.
    """
    hf = read_json(folder / CONFIG)
    named = [str(name) for name in hf.get("architectures") or ()]
    if any(name.endswith("ForSequenceClassification") for name in named):
        from genkit.text.explain.judges import ClassifierSubject

        return ClassifierSubject(folder, device)
    try:
        GPTConfig.from_hf(hf)
    except InputError:
        from genkit.text.explain.hub import open_hub

        if any(name.endswith("ForMaskedLM") for name in named):
            return open_hub(folder, "masked", device)
        if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named):
            return open_hub(folder, "causal", device)
        what = ", ".join(named) or hf.get("model_type") or "of no known kind"
        raise InputError(
            f"{folder} is {what}, which is not explained", "name a causal or masked language model, or a classifier"
        ) from None
    return OwnSubject(folder, device)

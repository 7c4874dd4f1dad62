"""Loading a classifier, and asking it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genkit import library
from genkit.errors import InputError
from genkit.files import read_json
from genkit.runtime.manager import Runtime
from genkit.text.classify.labelled import Classes
from genkit.text.classify.model import Classifier, Row, gpt_classifier
from genkit.text.config import GPTConfig

BATCH = 64  # texts at a time


def load_classifier(folder: Path, classes: Classes | None = None, *, max_length: int | None = None) -> Classifier:
    """The classifier in `folder`, or, with `classes`, one with a new head on the language model there.

    Our own architectures need no `transformers`.

    Raises:
        InputError: no model that can be a classifier.
    """
    if _is_ours(folder):
        return gpt_classifier(folder, classes, max_length=max_length)
    from genkit.text.classify.hub import hub_classifier

    return hub_classifier(folder, classes, max_length=max_length)


def _is_ours(folder: Path) -> bool:
    try:
        GPTConfig.from_hf(read_json(folder / library.CONFIG))
    except InputError:
        return False
    return (folder / library.TOKENIZER).is_file()


@torch.no_grad()
def logits_of(
    model: Classifier,
    rows: Sequence[Row],
    runtime: Runtime,
    *,
    batch_size: int = BATCH,
    on_progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float64]:
    """Logits (N, C) of some texts; rows of like length go through the model together.

    Args:
        on_progress: called after each batch with how many are done.

    Raises:
        InputError: a logit is not finite.
    """
    order = sorted(range(len(rows)), key=lambda place: rows[place].shape[1])
    found = np.zeros((len(rows), len(model.classes)))
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        with runtime.autocast():
            logits = model(model.padded([rows[place] for place in places]).to(runtime.device))
        found[places] = logits.double().cpu().numpy()
        on_progress(start + len(places))
    model.train(was_training)
    if not np.isfinite(found).all():
        raise InputError("the classifier's answer is not finite", "use --precision fp32, or another model")
    return found


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(-1, keepdims=True)
    return shares

"""Held-out pairs: the loss of their targets, and how near to them what the model writes is."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
import torch

from genkit.runtime.manager import Runtime
from genkit.text.evaluate import perplexity
from genkit.text.losses import IGNORE
from genkit.text.metrics.measure import measure
from genkit.text.seq2seq.data import PairSet, spread
from genkit.text.seq2seq.model import Seq2Seq


@torch.no_grad()
def evaluate(model: Seq2Seq, pairs: PairSet, runtime: Runtime, *, max_tokens: int, batch_size: int) -> dict[str, float]:
    """Mean cross-entropy of held-out targets, of pairs spread evenly over them.

    Args:
        max_tokens: measure no more targets than about this many tokens.

    Returns:
        `val_loss` in nats a token, and `val_ppl`.
    """
    chosen = spread(pairs.val, int(max_tokens / max(1.0, float(pairs.lengths(pairs.val)[1].mean()))))
    sources, targets = pairs.lengths(chosen)
    chosen = chosen[np.lexsort((targets, sources))]  # little padding
    training = model.training
    model.eval()
    nats, counted = 0.0, 0
    for some in np.array_split(chosen, -(-len(chosen) // batch_size)):
        x, y = (part.to(runtime.device) for part in pairs.padded(some))
        count = int((y != IGNORE).sum())
        with runtime.autocast():
            nats += model(x, y).item() * count
        counted += count
    model.train(training)
    return {"val_loss": nats / counted, "val_ppl": perplexity(nats / counted)}


def written(
    model: Seq2Seq, pairs: PairSet, runtime: Runtime, *, max_new_tokens: int, more: Sequence[Sequence[int]] = ()
) -> list[str]:
    """The targets that the model writes, by greedy search, for the sources of `pairs.shown`, and then for `more`."""
    sources = [pairs.source(number).tolist() for number, _ in pairs.shown]
    training = model.training
    model.eval()
    with runtime.autocast():
        texts = model.write([*sources, *more], max_new_tokens, runtime.device)
    model.train(training)
    return texts


def closeness(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`val_exact`, the share that is right, and, where sacrebleu is installed, `val_chrf` and `val_bleu`, 0 to 100."""
    metrics = ("exact", "chrf", "bleu") if importlib.util.find_spec("sacrebleu") else ("exact",)
    found = measure(metrics, texts, [[reference] for reference in references])
    return {f"val_{name}": figure.value for name, figure in found.items()}

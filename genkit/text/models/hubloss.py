"""The loss of causal models of `transformers`, as evaluation takes it from our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.text.hubtokenizer import HubTokenizer, load_hub_tokenizer
from genkit.text.losses import IGNORE
from genkit.text.models.hub import context_of, load_hub


class HubScorer(nn.Module):
    """A causal model.

    Attributes:
        context: tokens that it sees.
    """

    def __init__(self, body: Any, context: int) -> None:
        super().__init__()
        self.body, self.context = body, context

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the targets that are not IGNORE; both are (B, T)."""
        logits = self.body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits  # (B, T, V)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def load_scorer(folder: Path) -> tuple[HubScorer, HubTokenizer]:
    """A causal model on the CPU in fp32, and its tokenizer; errors as `load_hub` and `load_hub_tokenizer`."""
    tokenizer = load_hub_tokenizer(folder)
    model = load_hub(folder, "causal")
    return HubScorer(model, context_of(model, tokenizer)), tokenizer

"""Loss and bits per byte of held-out text."""

from __future__ import annotations

import math

import numpy as np
import torch

from genkit.runtime.manager import Runtime
from genkit.text.models.gpt import GPT


@torch.no_grad()
def evaluate(
    model: GPT, tokens: np.ndarray, runtime: Runtime, *, bytes_per_token: float, max_tokens: int, batch_size: int
) -> dict[str, float]:
    """Mean cross-entropy over non-overlapping windows, spread evenly over `tokens`.

    Args:
        tokens: (n,) token ids, at least two.
        bytes_per_token: of the whole validation text, end-of-text marks counted in.
        max_tokens: measure no more than about this many.

    Returns:
        `val_loss` in nats a token, `val_ppl`, and `val_bpb` in bits a byte, the
        figure that compares across tokenizers.
    """
    block = min(model.config.block_size, len(tokens) - 1)
    windows = (len(tokens) - 1) // block
    chosen = np.linspace(0, windows - 1, num=min(windows, max(1, max_tokens // block))).astype(int)
    model.eval()
    total = 0.0
    for rows in np.array_split(chosen, math.ceil(len(chosen) / batch_size)):
        window = np.stack([tokens[i * block : i * block + block + 1] for i in rows]).astype(np.int64)
        ids = torch.from_numpy(window).to(runtime.device)  # (B, T + 1)
        with runtime.autocast():
            total += model.loss(ids[:, :-1], ids[:, 1:]).item() * len(rows)
    model.train()
    loss = total / len(chosen)
    return {
        "val_loss": loss,
        "val_ppl": math.exp(min(loss, 700.0)),
        "val_bpb": loss / math.log(2) / bytes_per_token,
    }

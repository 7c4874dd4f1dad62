"""The pictures of an explanation, by the suffix of their file."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import torch

from genkit.text.explain import maps, spoken
from genkit.text.explain.attribution import Attribution
from genkit.text.explain.look import Target
from genkit.text.explain.subject import Subject, Tokens
from genkit.text.explainconfig import ExplainConfig


@torch.no_grad()
def attention_picture(
    subject: Subject, tokens: Tokens, config: ExplainConfig, device: torch.device
) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes, and what it shows.

    Raises:
        UsageError: no such layer or head.
    """
    weights = subject.attention(torch.tensor([tokens.ids], device=device)).float().cpu().numpy()  # (L, H, T, T)
    chosen = maps.choose(weights, tokens.pieces, config.layer, config.head)
    title = f"Attention, layer {config.layer}, head {config.head}" if chosen.single else "Attention"
    made = (maps.as_html if _is_page(config.attention) else maps.as_png)(chosen, title)
    return made, {"file": config.attention, "layers": chosen.layers, "heads": chosen.heads}


def attribution_picture(target: Target, found: Attribution, tokens: Tokens, path: str) -> bytes:
    """The file's bytes."""
    pieces = [tokens.pieces[at] for at in target.own]
    title = f"What speaks for {target.name!r}"
    if target.position is not None:
        title += f" at place {target.position}"
    sum_ = f"The text moves its logit by {found.difference:+.3f}; the values add up to {sum(found.values):+.3f}"
    return (spoken.as_html if _is_page(path) else spoken.as_png)(pieces, found.values, title, sum_)


def _is_page(path: str | None) -> bool:
    return PurePath(path or "").suffix.lower() == ".html"

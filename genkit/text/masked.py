"""Masked language models (Devlin et al. 2019): what they expect in the gaps of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genkit.errors import InputError
from genkit.runtime.manager import Runtime
from genkit.text.gaps import Candidate, parts


class MaskedModel:
    """A `*ForMaskedLM` of `transformers` with its tokenizer.

    Raises:
        InputError: not such a model, or one whose tokenizer has no mask.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        from genkit.text.models.hub import load_hub, load_tokenizer

        self._tokenizer = load_tokenizer(folder)
        if self._tokenizer.mask_token_id is None:
            raise InputError(f"{folder}: the tokenizer has no mask token", "use the tokenizer that the model came with")
        model = load_hub(folder, "masked")
        self._model, self._runtime = model.to(runtime.device), runtime
        self._context = longest(model, self._tokenizer)

    @torch.no_grad()
    def fill(self, text: str, top_k: int) -> list[list[Candidate]]:
        """For each gap of `text` its `top_k` likeliest tokens, the best first.

        Every gap is judged with the others still open, all in one pass.

        Raises:
            InputError: no gap, or a text longer than the model's context.
        """
        tokenizer = self._tokenizer
        marked = tokenizer.mask_token.join(parts(text))
        inputs = tokenizer(marked, return_tensors="pt")
        ids = inputs["input_ids"][0]  # (T,)
        if len(ids) > self._context:
            raise InputError(f"the text has {len(ids)} tokens, the model's context {self._context}", "shorten it")
        gaps = (ids == tokenizer.mask_token_id).nonzero().flatten()
        with self._runtime.autocast():
            logits = self._model(**{name: value.to(self._runtime.device) for name, value in inputs.items()}).logits[0]
        shares = logits[gaps.to(logits.device)].float().softmax(-1)  # (gaps, V)
        if not bool(torch.isfinite(shares).all()):
            raise InputError("the model's answer is not finite", "use --precision fp32, or another model")
        best = shares.topk(min(top_k, shares.shape[-1]))
        rows = zip(gaps.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        return [self._candidates(ids.tolist(), place, tokens, found) for place, tokens, found in rows]

    def _candidates(
        self, ids: list[int], place: int, tokens: Sequence[int], shares: Sequence[float]
    ) -> list[Candidate]:
        return [
            Candidate(
                token, self._tokenizer.decode([token]), share, self._text([*ids[:place], token, *ids[place + 1 :]])
            )
            for token, share in zip(tokens, shares, strict=True)
        ]

    def _text(self, ids: list[int]) -> str:
        """The text of ids; open gaps stay visible, other special tokens do not."""
        tokenizer = self._tokenizer
        kept = [token for token in ids if token == tokenizer.mask_token_id or token not in tokenizer.all_special_ids]
        return str(tokenizer.decode(kept)).strip()


def longest(model: Any, tokenizer: Any) -> int:
    """Tokens that a model of `transformers` has positions for; a large number where it counts them relatively."""
    lengths = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 1 << 20]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            lengths.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from behind the padding
    return int(min(*lengths, 1 << 20))

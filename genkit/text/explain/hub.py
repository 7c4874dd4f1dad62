"""Models of `transformers`, opened for a look inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.text.explain.subject import Kind, Tokens, check_text, first_of, pieces_of
from genkit.text.gaps import marked
from genkit.text.models.hub import context_of, load_hub, load_tokenizer


class HubSubject:
    """A causal or masked model with its own tokenizer.

    Args:
        model: of `transformers`, in evaluation mode; `tokenizer` is that of `AutoTokenizer`.
        context: tokens that the model can see.
    """

    def __init__(self, model: Any, tokenizer: Any, kind: Kind, context: int) -> None:
        self.labels: tuple[str, ...] = ()
        self.model, self.tokenizer, self.kind, self.context = model, tokenizer, kind, context
        self.embedding = input_embeddings(model)
        self.mask: int | None = tokenizer.mask_token_id if kind == "masked" else None
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        nothing = self.mask if kind == "masked" else start
        if nothing is None:
            raise InputError("the tokenizer names no mask token" if kind == "masked" else "no token begins a text")
        self.nothing = int(nothing)

    def tokens(self, text: str) -> Tokens:
        if self.kind == "masked":
            return framed(self.tokenizer, marked(text, self.tokenizer.mask_token), self.context)
        found = encoded(self.tokenizer, text, special=False)
        check_text(found.ids, self.context - 1)
        return Tokens(
            [self.nothing, *found.ids], [self.name(self.nothing), *found.pieces], range(1, 1 + len(found.ids))
        )

    def name(self, token: int) -> str:
        return str(self.tokenizer.decode([token])) or str(self.tokenizer.convert_ids_to_tokens(token))

    def first_token(self, text: str) -> int:
        return first_of(self.tokenizer(text, add_special_tokens=False)["input_ids"], text)

    def scores(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits

    def attention(self, ids: Tensor) -> Tensor:
        return attention_of(self.model, ids)


def open_hub(folder: Path, kind: Literal["causal", "masked"], device: torch.device) -> HubSubject:
    """The causal or masked model in `folder`, in fp32; errors as `load_hub` and `load_tokenizer`."""
    model, tokenizer = load_hub(folder, kind), load_tokenizer(folder)
    most = context_of(model, tokenizer)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            most = min(most, module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from behind the padding
    return HubSubject(model.to(device).requires_grad_(False), tokenizer, kind, most)


def input_embeddings(model: Any) -> nn.Module:
    """The layer that makes vectors of ids."""
    return cast("nn.Module", model.get_input_embeddings())


@torch.no_grad()
def attention_of(model: Any, ids: Tensor) -> Tensor:
    """Attention weights (layers, heads, T, T) of a text (1, T), by the kernel that writes them down."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        found: Sequence[Tensor] = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True
        ).attentions
    finally:
        model.set_attn_implementation(usual)
    return torch.cat([layer.float() for layer in found])


def framed(tokenizer: Any, text: str, context: int) -> Tokens:
    """A text between the special tokens that the tokenizer puts around it.

    Raises:
        InputError: it is empty or does not fit.
    """
    found = encoded(tokenizer, text, special=True)
    check_text([found.ids[at] for at in found.own], context - (len(found.ids) - len(found.own)))
    return found


def encoded(tokenizer: Any, text: str, *, special: bool) -> Tokens:
    """The tokens of a text; their pieces are cut from it where the tokenizer says where they stand."""
    whole = tokenizer(text, add_special_tokens=special, return_special_tokens_mask=True)
    ids, around = whole["input_ids"], whole["special_tokens_mask"]
    if special:  # a mask token within the text is special too, and its own
        bare = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        start = next((at for at in range(len(ids)) if not around[at] or ids[at] == tokenizer.mask_token_id), 0)
        own = range(start, start + bare)
    else:
        own = range(len(ids))
    names = [str(tokenizer.decode([id])) or str(tokenizer.convert_ids_to_tokens(id)) for id in ids]
    if tokenizer.is_fast:
        offsets = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)["offset_mapping"]
        names[own.start : own.stop] = pieces_of(text, [tuple(offsets[at]) for at in own])
    return Tokens(list(ids), names, own)

"""A text model opened for a look inside, whichever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.text.engines import check_length
from genkit.text.explain.attention import attention_maps
from genkit.text.models.store import check_usable, load_model
from genkit.text.tokenizer import Tokenizer

Kind = Literal["causal", "masked", "classifier"]


@dataclass(frozen=True)
class Tokens:
    """A text as its model sees it.

    Attributes:
        ids: with the special tokens that the model puts around a text.
        pieces: what each reads as; those of the text's own tokens join to the text.
        own: the places of the text's own tokens.
    """

    ids: list[int]
    pieces: list[str]
    own: range


class Subject(Protocol):
    """A model in evaluation mode, in fp32.

    Attributes:
        kind: what its scores are: of the next token at each place, of the token at each
            masked place, or of labels.
        embedding: the layer that makes vectors of ids.
        nothing: the token that stands for no text, the start of attributions.
        mask: the token that stands for a gap; None unless `kind` is "masked".
        labels: of a classifier, in the order of its scores.
    """

    kind: Kind
    embedding: nn.Module
    nothing: int
    mask: int | None
    labels: tuple[str, ...]

    def tokens(self, text: str) -> Tokens:
        """Raise InputError for a text that is empty or does not fit the context."""

    def name(self, token: int) -> str:
        """What one token reads as by itself."""

    def first_token(self, text: str) -> int:
        """The first token of a text that goes on behind another. Raise InputError when it has none."""

    def scores(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V), or (B, labels) of a classifier, of texts (B, T)."""

    def attention(self, ids: Tensor) -> Tensor:
        """Attention weights (layers, heads, T, T) of a text (1, T)."""


class OwnSubject:
    """One of our GPTs. The text stands behind an end-of-text token, as in `genkit eval`."""

    kind: Kind = "causal"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.mask: int | None = None
        self.labels: tuple[str, ...] = ()
        self.tokenizer = Tokenizer.load(folder)
        model = load_model(folder)
        check_usable(folder, model, self.tokenizer)
        self.model = model.to(device).eval().requires_grad_(False)
        self.embedding: nn.Module = model.embed
        self.nothing = self.tokenizer.eos_id

    def tokens(self, text: str) -> Tokens:
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        check_text(ids, self.model.config.block_size - 1)
        pieces = pieces_of(text, offsets)
        return Tokens([self.nothing, *ids], [self.tokenizer.eos, *pieces], range(1, 1 + len(ids)))

    def name(self, token: int) -> str:
        return self.tokenizer.eos if token == self.nothing else self.tokenizer.decode([token])

    def first_token(self, text: str) -> int:
        return first_of(self.tokenizer.encode(text), text)

    def scores(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids)
        return logits

    def attention(self, ids: Tensor) -> Tensor:
        return attention_maps(self.model, ids)


def check_text(ids: Sequence[int], room: int) -> None:
    """Raise InputError for a text without tokens, or with more than there is room for."""
    if not ids:
        raise InputError("the text is empty", "give some text to explain")
    check_length(len(ids), room + 1)


def first_of(ids: Sequence[int], text: str) -> int:
    """Raise InputError when there is none."""
    if not ids:
        raise InputError(f"--target {text!r} has no token", "name a token, such as ' the'")
    return ids[0]


def pieces_of(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """What each token reads as, with what lies between it and the one before.

    The later tokens of one character read as U+FFFD.

    Args:
        offsets: of the characters that each token stands for.
    """
    pieces, end = [], 0
    for _, stop in offsets:
        pieces.append(text[end:stop] if stop > end else "\ufffd")
        end = max(end, stop)
    return pieces

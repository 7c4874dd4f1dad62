"""Classifiers, opened for a look inside."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from genkit.text.classify.hub import HubClassifier
from genkit.text.classify.model import GPTClassifier
from genkit.text.classify.predict import load_classifier
from genkit.text.explain.attention import attention_maps
from genkit.text.explain.hub import attention_of, framed, input_embeddings
from genkit.text.explain.subject import Kind, Tokens, check_text, pieces_of


class ClassifierSubject:
    """Either kind of classifier."""

    kind: Kind = "classifier"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.mask: int | None = None
        model = load_classifier(folder)
        model.to(device).eval().requires_grad_(False)
        self.model, self.labels = model, model.classes
        assert isinstance(model, GPTClassifier | HubClassifier)
        self.embedding: nn.Module
        if isinstance(model, GPTClassifier):
            self.embedding, self.nothing = model.gpt.embed, model.tokenizer.eos_id
        else:
            self.embedding = input_embeddings(model.body)
            mask = model.tokenizer.mask_token_id
            self.nothing = model.pad_id if mask is None else mask

    def tokens(self, text: str) -> Tokens:
        if isinstance(self.model, HubClassifier):
            return framed(self.model.tokenizer, text, self.model.max_length)
        assert isinstance(self.model, GPTClassifier)
        ids, offsets = self.model.tokenizer.encode_with_offsets(text)
        [row] = self.model.encode([text])
        whole = row[0].tolist()
        check_text(ids, self.model.max_length)
        start = next((at for at in range(len(whole)) if whole[at : at + len(ids)] == ids), 0)
        names = [self.name(id) for id in whole]
        pieces = [*names[:start], *pieces_of(text, offsets), *names[start + len(ids) :]]
        return Tokens(whole, pieces, range(start, start + len(ids)))

    def name(self, token: int) -> str:
        if isinstance(self.model, HubClassifier):
            return str(self.model.tokenizer.decode([token]))
        assert isinstance(self.model, GPTClassifier)
        return self.model.tokenizer.eos if token == self.nothing else self.model.tokenizer.decode([token])

    def first_token(self, text: str) -> int:
        raise NotImplementedError  # its targets are labels

    def scores(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)], dim=1))
        return logits

    def attention(self, ids: Tensor) -> Tensor:
        if isinstance(self.model, GPTClassifier):
            return attention_maps(self.model.gpt, ids)
        assert isinstance(self.model, HubClassifier)
        return attention_of(self.model.body, ids)

"""A classifier: a language model whose state at one token of a text is read by a linear head.

Ours is `GPTClassifier`; `hub.py` has those of other architectures. Both take rows
(B, 3, T), token ids, attention mask and token types, and give logits (B, C).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import TOKENIZER, TOKENIZER_CONFIG
from genkit.text.classify.labelled import Classes
from genkit.text.models.gpt import GPT, INIT_STD
from genkit.text.models.layout import from_hf_state, to_hf_state
from genkit.text.models.store import CONFIG, read_config, read_weights
from genkit.text.tokenizer import Tokenizer

Row = NDArray[np.int64]  # (3, T)

USUAL_LENGTH = 512  # tokens of a text that are looked at, at most, where nobody says more
_HEAD = "score.weight"
_ARCHITECTURES = {
    "gpt2": "GPT2ForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
}


class ModelFiles(NamedTuple):
    """What a model directory holds besides its record."""

    tensors: Mapping[str, Tensor]
    json: Mapping[str, Mapping[str, Any]]
    raw: Mapping[str, bytes]


class Classifier(nn.Module):
    """What both kinds share.

    Attributes:
        classes: their names, by number.
        context: tokens of a text that the model can see.
        max_length: tokens of a text that it is shown; the rest is cut off.
        pad_id: what fills up shorter rows.
        width: of its states.
    """

    classes: Classes
    context: int
    max_length: int
    pad_id: int
    width: int

    @abstractmethod
    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        """Token ids, mask and types of each text, `max_length` of them at most."""

    @abstractmethod
    def files(self) -> ModelFiles:
        """The model as `AutoModelForSequenceClassification` and `AutoTokenizer` read it."""

    @abstractmethod
    def head(self) -> list[nn.Parameter]:
        """The parameters that a language model does not have."""

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def padded(self, rows: Sequence[Row]) -> Tensor:
        """(B, 3, T) from rows of up to T tokens."""
        filled = np.zeros((len(rows), 3, max(row.shape[1] for row in rows)), dtype=np.int64)
        filled[:, 0] = self.pad_id
        for place, row in enumerate(rows):
            filled[place, :, : row.shape[1]] = row
        return torch.from_numpy(filled)


class GPTClassifier(Classifier):
    """A linear map of the state at a text's last token, on our own GPT.

    The function is that of `transformers`' `*ForSequenceClassification`: the token read is
    the last one that is not `pad_id`. A pair is one text, its parts on a line each.
    """

    def __init__(self, gpt: GPT, tokenizer: Tokenizer, classes: Classes, max_length: int) -> None:
        super().__init__()
        self.gpt, self.tokenizer, self.classes = gpt, tokenizer, classes
        self.score = nn.Linear(gpt.config.n_embd, len(classes), bias=False)
        nn.init.normal_(self.score.weight, std=INIT_STD)
        self.context, self.width = gpt.config.block_size, gpt.config.n_embd
        self.max_length = min(max_length, self.context)
        self.pad_id = tokenizer.eos_id

    def forward(self, rows: Tensor) -> Tensor:
        ids = rows[:, 0]  # (B, T)
        hidden = self.gpt.hidden(ids)  # (B, T, C); what follows a token does not change its state
        places = torch.arange(ids.shape[1], device=ids.device)
        last = (places * (ids != self.pad_id)).argmax(1)  # (B,)
        logits: Tensor = self.score(hidden[torch.arange(len(ids), device=ids.device), last])
        return logits

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        if pairs is not None:
            texts = [f"{text}\n{pair}" for text, pair in zip(texts, pairs, strict=True)]
        rows = []
        for ids in self.tokenizer.encode_framed(texts):
            kept = np.array(ids[: self.max_length] or [self.pad_id], dtype=np.int64)
            rows.append(np.stack([kept, np.ones_like(kept), np.zeros_like(kept)]))
        return rows

    def head(self) -> list[nn.Parameter]:
        return list(self.score.parameters())

    def files(self) -> ModelFiles:
        shape = self.gpt.config.to_hf()
        shape |= {"architectures": [_ARCHITECTURES[self.gpt.config.arch]], **named(self.classes)}
        shape |= {"pad_token_id": self.pad_id, "problem_type": "single_label_classification"}
        tensors = to_hf_state(self.gpt) | {_HEAD: self.score.weight.detach()}
        tokenizer = self.tokenizer.config() | {"model_max_length": self.max_length}
        return ModelFiles(
            tensors, {CONFIG: shape, TOKENIZER_CONFIG: tokenizer}, {TOKENIZER: self.tokenizer.to_json().encode()}
        )


def gpt_classifier(folder: Path, classes: Classes | None = None, *, max_length: int | None = None) -> GPTClassifier:
    """The classifier in `folder`, or, with `classes`, a new one on the GPT there; on the CPU in fp32.

    A head that is there already is kept where its classes are `classes`.

    Raises:
        InputError: files that are missing, damaged, or do not fit one another.
    """
    tensors = read_weights(folder)
    head = tensors.pop(_HEAD, None)
    tensors.pop("lm_head.weight", None)
    hf = read_json(folder / CONFIG)
    # a classifier has no token head, tied or not
    gpt = from_hf_state(dataclasses.replace(read_config(folder), tie_embeddings=True), tensors)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > gpt.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {gpt.config.vocab_size}"
        )
    held = class_names(hf, folder) if head is not None else None
    if classes is None and held is None:
        raise InputError(
            f"{folder}: there is no {_HEAD}, so this is no classifier", "make one: genkit train-classifier"
        )
    length = max_length or (_stored_length(folder) if held is not None else None) or USUAL_LENGTH
    model = GPTClassifier(gpt, tokenizer, classes or held or (), length)
    if head is not None and held == model.classes:
        if head.shape != model.score.weight.shape:
            raise InputError(
                f"{folder}: {_HEAD} is {list(head.shape)}, not {list(model.score.weight.shape)}",
                "config.json and model.safetensors must come from the same model",
            )
        model.score.weight.data.copy_(head)
    if classes is None:
        model.pad_id = _pad_id(hf, model.pad_id)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise InputError(f"{folder} holds numbers that are not finite", "use another model")
    return model


def named(classes: Classes) -> dict[str, Any]:
    """The classes as `config.json` says them."""
    return {
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }


def class_names(hf: Mapping[str, Any], folder: Path) -> Classes:
    """The classes that a `config.json` names, in their order.

    Raises:
        InputError: they are not numbered from 0 on.
    """
    found = hf.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # what transformers leaves out
    try:
        numbered = {int(number): str(name) for number, name in found.items()}
        return tuple(numbered[number] for number in range(len(numbered)))
    except (AttributeError, KeyError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: id2label does not number the classes from 0 on") from error


def _stored_length(folder: Path) -> int | None:
    path = folder / TOKENIZER_CONFIG
    length = read_json(path).get("model_max_length") if path.is_file() else None
    return length if isinstance(length, int) and 0 < length < 1 << 24 else None


def _pad_id(hf: Mapping[str, Any], usual: int) -> int:
    found = hf.get("pad_token_id")
    return found if isinstance(found, int) else usual

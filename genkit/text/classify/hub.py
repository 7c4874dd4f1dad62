"""Classifiers of other architectures, through `transformers`: BERT, RoBERTa, DistilBERT, T5, any causal model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG, WEIGHTS
from genkit.text.classify.labelled import Classes
from genkit.text.classify.model import USUAL_LENGTH, Classifier, ModelFiles, Row, class_names
from genkit.text.masked import longest
from genkit.training.weights import load_tensors

_ONE_FILE = "1000GB"  # as the largest shard


class HubClassifier(Classifier):
    """A `*ForSequenceClassification` of `transformers` with its tokenizer.

    Args:
        body: the model; `tokenizer` puts the special tokens around a text or a pair.
    """

    def __init__(self, body: Any, tokenizer: Any, classes: Classes, max_length: int | None) -> None:
        super().__init__()
        self.body, self.tokenizer, self.classes = body, tokenizer, classes
        config = body.config.get_text_config()
        self.width = int(config.hidden_size)
        self.context = longest(body, tokenizer)
        self.max_length = min(max_length or min(self.context, USUAL_LENGTH), self.context)
        self.pad_id = int(body.config.pad_token_id)
        self._has_types = "token_type_ids" in tokenizer.model_input_names

    def forward(self, rows: Tensor) -> Tensor:
        ids, mask, types = rows.unbind(1)  # (B, T) each
        more = {"token_type_ids": types} if self._has_types else {}
        logits: Tensor = self.body(input_ids=ids, attention_mask=mask, **more).logits
        return logits

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Row]:
        found = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
        )
        types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
        rows = zip(found["input_ids"], found["attention_mask"], types, strict=True)
        return [np.array(row, dtype=np.int64).reshape(3, -1) for row in rows]

    def head(self) -> list[nn.Parameter]:
        return list(_outside(self.body).values())

    def files(self) -> ModelFiles:
        from genkit.text.models.hub import quiet_transformers

        self.tokenizer.model_max_length = self.max_length
        with tempfile.TemporaryDirectory(prefix="genkit-") as name, quiet_transformers():
            folder = Path(name)
            self.body.save_pretrained(folder, max_shard_size=_ONE_FILE)
            self.tokenizer.save_pretrained(folder)
            tensors = load_tensors(folder / WEIGHTS)
            config = {CONFIG: read_json(folder / CONFIG)}
            rest = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in (WEIGHTS, CONFIG)}
        return ModelFiles(tensors, config, rest)


def hub_classifier(folder: Path, classes: Classes | None = None, *, max_length: int | None = None) -> HubClassifier:
    """The classifier in `folder`, or, with `classes`, a new one on the model there; on the CPU in fp32.

    A head that is there already is kept where its classes are `classes`.

    Raises:
        InputError: `transformers` is missing, or does not build a classifier of these files.
    """
    from genkit.text.models.hub import KEPT, check_weights, load_tokenizer, quiet_transformers, refused

    hf = read_json(folder / CONFIG)
    has_head = _is_classifier(hf)
    held = class_names(hf, folder) if has_head else None
    if classes is None and held is None:
        raise InputError(f"{folder} is no classifier", "make one: genkit train-classifier")
    names = classes or held or ()
    check_weights(folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with quiet_transformers():
        from transformers import AutoConfig, AutoModelForSequenceClassification

        try:
            config = AutoConfig.from_pretrained(folder, **KEPT)
            config.id2label = dict(enumerate(names))
            config.label2id = {name: number for number, name in enumerate(names)}
            config.problem_type = "single_label_classification"
            if config.pad_token_id is None:
                config.pad_token_id = tokenizer.pad_token_id
            body, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # a head of another number of classes is made anew
                output_loading_info=True,
                **KEPT,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
            raise refused(folder, error, "classifier") from error
    wrong = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if classes is not None:  # the head may be new, and the pooler below it, which language models are saved without
        head = _outside(body)
        wrong = [name for name in wrong if name not in head and ".pooler." not in name]
    if wrong:
        raise InputError(
            f"{folder}: {wrong[0]} is missing or has another shape",
            "config.json and the weights must come from the same model",
        )
    if has_head and held != names:
        for parameter in _outside(body).values():
            nn.init.zeros_(parameter) if parameter.ndim < 2 else nn.init.normal_(parameter, std=0.02)
    return HubClassifier(body, tokenizer, names, max_length)


def _is_classifier(hf: dict[str, Any]) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in hf.get("architectures") or ())


def _outside(body: Any) -> dict[str, nn.Parameter]:
    """The parameters that are not the language model's, by name."""
    base = f"{body.base_model_prefix}."
    return {name: parameter for name, parameter in body.named_parameters() if not name.startswith(base)}

"""A labelled set made ready: which examples train, which validate, and the batch of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import InputError, UsageError
from genkit.runtime.seeds import derive_seed
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.labelled import (
    Classes,
    Example,
    check_known,
    classes_of,
    contradictions,
    counts,
    fingerprint,
    read_examples,
    split,
)
from genkit.text.classify.model import Classifier, Row


@dataclass(frozen=True)
class LabelledSet:
    """Examples to train and to validate on.

    Attributes:
        classes: those of the training examples.
        fingerprint: SHA-256 of all of them.
    """

    train: list[Example]
    val: list[Example]
    classes: Classes
    fingerprint: str

    def line(self) -> str:
        """`900 texts to train on, 100 to validate: neg 500, pos 400`"""
        named = counts(self.train, self.classes)
        shown = ", ".join(f"{name} {named[name]:,}" for name in self.classes[:12])
        more = f" and {len(self.classes) - 12} more" if len(self.classes) > 12 else ""
        return f"{len(self.train):,} texts to train on, {len(self.val):,} to validate: {shown}{more}"

    def warnings(self) -> list[str]:
        """What the user should know although training goes on."""
        if not (torn := contradictions([*self.train, *self.val])):
            return []
        return [f"{torn:,} text{'s carry' if torn > 1 else ' carries'} more than one label"]


def prepare(config: ClassifyTrainConfig, *, expected: str | None = None) -> LabelledSet:
    """Read and divide the data.

    Args:
        expected: the fingerprint of the data of a run that is resumed.

    Raises:
        UsageError: --patience without anything to validate on.
        InputError: as `read_examples`, `classes_of` and `split`, a label in --val-data that
            is not in --data, or other data than when the run began.
    """
    fields = {"text_field": config.text_field, "label_field": config.label_field, "pair_field": config.pair_field}
    examples = read_examples(config.data, **fields)  # type: ignore[arg-type]
    found = classes_of(examples)
    if config.val_data is not None:
        train, val = examples, read_examples([config.val_data], **fields)  # type: ignore[arg-type]
        check_known(val, found, "--data")
    else:
        train, val = split(examples, config.val_fraction, config.seed)
    if config.patience and not val:
        raise UsageError("--patience needs texts to validate on", "hold some out with --val-fraction or --val-data")
    made = LabelledSet(train, val, found, fingerprint(train, val))
    if expected is not None and expected != made.fingerprint:
        raise InputError("the data is not what it was when this run began", "bring it back, or start anew with --force")
    return made


class Rows:
    """Tokenized training examples; the batch of a step is a function of the seed and its number alone."""

    def __init__(self, model: Classifier, examples: Sequence[Example], seed: int) -> None:
        self.rows = encoded(model, examples)
        self.labels = numbers(examples, model.classes)
        self._model, self._seed = model, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Rows (B, 3, T) and class numbers (B,) of a step; an epoch takes each example once, in its own order."""
        places = [self._at(index) for index in range(step * size, (step + 1) * size)]
        return self._model.padded([self.rows[place] for place in places]), torch.tensor(self.labels[places])

    def _at(self, index: int) -> int:
        epoch, place = divmod(index, len(self.rows))
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(derive_seed(self._seed, f"epoch {epoch}")))
            self._epoch, self._order = epoch, generator.permutation(len(self.rows))
        return int(self._order[place])

    @property
    def cut(self) -> int:
        """How many rows fill the length that the model is shown, and so may be cut off."""
        return sum(row.shape[1] == self._model.max_length for row in self.rows)

    def weights(self) -> Tensor:
        """(C,) what an example of each class counts for all classes to weigh the same; the mean over examples is 1."""
        sizes = np.bincount(self.labels, minlength=len(self._model.classes))
        return torch.tensor(len(self.labels) / (len(sizes) * sizes), dtype=torch.float32)


def encoded(model: Classifier, examples: Sequence[Example]) -> list[Row]:
    """The rows of some examples."""
    pairs = [example.pair for example in examples if example.pair is not None]
    return model.encode([example.text for example in examples], pairs or None)


def numbers(examples: Sequence[Example], classes: Classes) -> NDArray[np.int64]:
    """(N,) the number of each example's class."""
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[example.label] for example in examples], dtype=np.int64)

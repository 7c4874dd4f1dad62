"""What a classifier's answers are worth: accuracy, F1 and the confusion matrix. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measures:
    """Counts of what was said against what is true.

    Attributes:
        classes: their names.
        confusion: (C, C) examples of the class of a row that were called the class of a column.
        loss: mean cross-entropy in nats.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    loss: float

    @property
    def examples(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the examples that are called what they are; with one label each, this is the micro F1 too."""
        return float(np.trace(self.confusion) / max(1, self.examples))

    @property
    def majority(self) -> float:
        """The accuracy of always naming the most frequent class."""
        return float(self.confusion.sum(1).max() / max(1, self.examples))

    @property
    def precision(self) -> NDArray[np.float64]:
        """(C,) share of what was called a class that is one; 0 where nothing was."""
        return _share(np.diag(self.confusion), self.confusion.sum(0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """(C,) share of a class that was called so; 0 where there is none of it."""
        return _share(np.diag(self.confusion), self.confusion.sum(1))

    @property
    def f1(self) -> NDArray[np.float64]:
        """(C,) harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
        return _share(2 * np.diag(self.confusion), self.confusion.sum(0) + self.confusion.sum(1))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur, or were named; others would count as 0 for nothing."""
        there = self.confusion.sum(0) + self.confusion.sum(1) > 0
        return float(self.f1[there].mean()) if there.any() else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "examples": self.examples,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "micro_f1": self.accuracy,
            "majority": self.majority,
            "classes": [
                {
                    "class": name,
                    "precision": float(self.precision[i]),
                    "recall": float(self.recall[i]),
                    "f1": float(self.f1[i]),
                    "examples": int(self.confusion[i].sum()),
                }
                for i, name in enumerate(self.classes)
            ],
            "confusion": self.confusion.tolist(),
        }


def measure(classes: tuple[str, ...], true: Sequence[int] | NDArray[np.int64], logits: NDArray[np.float64]) -> Measures:
    """The measures of `logits` (N, C) against the numbers of the `true` classes (N,)."""
    rows = np.asarray(true, dtype=np.int64)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (rows, logits.argmax(1)), 1)
    top = logits.max(1)
    normaliser = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return Measures(classes, confusion, float((normaliser - logits[np.arange(len(rows)), rows]).mean()))


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)

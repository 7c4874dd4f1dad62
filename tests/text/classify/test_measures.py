"""Accuracy, F1 and the confusion matrix, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genkit.text.classify.measures import measure


def test_measures_by_hand() -> None:
    said = [0, 0, 1, 1, 1, 2]
    true = [0, 1, 1, 1, 0, 1]
    found = measure(("a", "b", "c", "d"), true, np.eye(4)[said] * 2.0)
    assert found.confusion.tolist() == [[1, 1, 0, 0], [1, 2, 1, 0], [0] * 4, [0] * 4]
    assert found.accuracy == 3 / 6
    assert found.majority == 4 / 6
    assert found.precision.tolist() == [1 / 2, 2 / 3, 0, 0]
    assert found.recall.tolist() == [1 / 2, 2 / 4, 0, 0]
    assert found.f1.tolist() == pytest.approx([1 / 2, 4 / 7, 0, 0])
    assert found.macro_f1 == pytest.approx((1 / 2 + 4 / 7 + 0) / 3)  # d neither occurs nor is named
    normaliser = math.log(math.exp(2) + 3)
    assert found.loss == pytest.approx(normaliser - 2 * 3 / 6)
    facts = found.to_dict()
    assert facts["micro_f1"] == facts["accuracy"]
    assert facts["classes"][1] == {
        "class": "b",
        "precision": 2 / 3,
        "recall": 0.5,
        "f1": pytest.approx(4 / 7),
        "examples": 4,
    }


def test_large_logits_do_not_overflow() -> None:
    assert measure(("a", "b"), [0, 1], np.array([[1e4, 0.0], [0.0, 1e4]])).loss == 0

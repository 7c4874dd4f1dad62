"""Asking a classifier: texts in, the probabilities of the classes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genkit.runtime.manager import Runtime
from genkit.text.classify.model import Classifier
from genkit.text.classify.predict import logits_of, probabilities
from genkit.text.questions import Question


@dataclass(frozen=True)
class Answer:
    """The probability of each class, the likeliest first."""

    question: Question
    probabilities: dict[str, float]

    @property
    def label(self) -> str:
        return next(iter(self.probabilities))


def ask(model: Classifier, questions: Sequence[Question], runtime: Runtime) -> list[Answer]:
    """The answer to each question; all are texts, or all are pairs.

    Raises:
        InputError: an answer is not finite.
    """
    if not questions:
        return []
    pairs = [question.pair for question in questions if question.pair is not None]
    rows = model.encode([question.text for question in questions], pairs or None)
    shares = probabilities(logits_of(model, rows, runtime))
    return [
        Answer(question, dict(sorted(zip(model.classes, row, strict=True), key=lambda item: -item[1])))
        for question, row in zip(questions, shares.tolist(), strict=True)
    ]

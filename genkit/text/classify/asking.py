"""Many texts to classify: lines of text or of JSON in, answers in the same order out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genkit.errors import InputError
from genkit.runtime.manager import Runtime
from genkit.text.batches.lines import Line, Lines
from genkit.text.classify.labelled import text_of
from genkit.text.classify.model import Classifier
from genkit.text.classify.predict import logits_of, probabilities
from genkit.text.records import Record

AT_ONCE = 256  # texts read before the model is asked


@dataclass(frozen=True)
class Question:
    """A text, or a pair of them.

    Attributes:
        id: of its line, given back with the answer.
    """

    text: str
    pair: str | None = None
    id: Any = None


@dataclass(frozen=True)
class Answer:
    """The probability of each class, the likeliest first."""

    question: Question
    probabilities: dict[str, float]

    @property
    def label(self) -> str:
        return next(iter(self.probabilities))


@dataclass(frozen=True)
class Refused:
    """A line that is no question."""

    id: Any
    error: InputError


def ask(model: Classifier, questions: Sequence[Question], runtime: Runtime) -> list[Answer]:
    """The answer to each question.

    Raises:
        InputError: some are pairs and others are not, or an answer is not finite.
    """
    pairs = [question.pair for question in questions if question.pair is not None]
    if pairs and len(pairs) < len(questions):
        raise InputError("some texts have a second one and others have none", "give pairs alone, or none")
    rows = model.encode([question.text for question in questions], pairs or None)
    shares = probabilities(logits_of(model, rows, runtime))
    return [
        Answer(question, dict(sorted(zip(model.classes, row, strict=True), key=lambda item: -item[1])))
        for question, row in zip(questions, shares.tolist(), strict=True)
    ]


def ask_lines(
    model: Classifier, lines: Lines, runtime: Runtime, *, jsonl: bool, text_field: str, pair_field: str | None
) -> Iterator[Answer | Refused]:
    """An answer for each line, as soon as those that are there already are read.

    Args:
        jsonl: the lines are JSON objects, or strings; else each is a text.
    """
    while lines.wait() is not None:
        read: list[Question | Refused] = []
        while len(read) < AT_ONCE and (line := lines.next()) is not None:
            read.append(_question(line, lines.name, jsonl, text_field, pair_field))
        questions = [item for item in read if isinstance(item, Question)]
        answers = iter(ask(model, questions, runtime) if questions else [])
        for item in read:
            yield next(answers) if isinstance(item, Question) else item


def _question(line: Line, name: str, jsonl: bool, text_field: str, pair_field: str | None) -> Question | Refused:
    where, identity = f"{name}:{line.number}", None
    try:
        if line.data is None:
            raise InputError(f"{where} is too long", "split it")
        text = line.data.decode()
        if not jsonl:
            return Question(text.rstrip("\r"))
        value = json.loads(text)
        if isinstance(value, str):
            value = {text_field: value}
        if not isinstance(value, dict):
            raise InputError(f"{where} is no object with fields", f'write {{"{text_field}": ...}}')
        identity = value.get("id")
        record = Record(value, where)
        pair = None if pair_field is None else text_of(record, pair_field, "--pair-field")
        return Question(text_of(record, text_field, "--text-field"), pair, identity)
    except UnicodeDecodeError as error:
        return Refused(identity, InputError(f"{where}: byte 0x{error.object[error.start]:02x} is not UTF-8", "use UTF-8"))
    except (ValueError, RecursionError) as error:
        return Refused(identity, InputError(f"{where} is not valid JSON: {error}", "mend or remove it"))
    except InputError as error:
        return Refused(identity, error)

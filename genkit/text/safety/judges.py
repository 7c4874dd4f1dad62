"""What rejects a text: words, patterns, a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from genkit import library
from genkit.config import suggest
from genkit.errors import InputError, UsageError
from genkit.files import input_errors
from genkit.text.safety.automaton import Automaton
from genkit.text.safety.config import FilterConfig
from genkit.text.safety.folding import folded, is_letter, joined, plain

if TYPE_CHECKING:
    from genkit.runtime.manager import Runtime
    from genkit.text.classify.model import Classifier

_LONGEST = 16 << 20  # bytes of a file of words or patterns


class Judge(Protocol):
    """Says whether a text is rejected.

    Attributes:
        name: what the count of its rejections is called.
    """

    name: str

    def rejects(self, prompt: str, text: str) -> bool:
        """Whether `text`, which continues `prompt`, is rejected for something that is in it."""


class Words:
    """Whole words and phrases, whatever their capitals, width or invisible characters.

    A match counts when it ends in the text; it may begin in the prompt.
    """

    name = "words"

    def __init__(self, words: Sequence[str]) -> None:
        found = [folded(word).strip() for word in words]
        if not all(found):
            raise UsageError("--filter has a word of invisible characters alone", "remove it")
        self._words = list(dict.fromkeys(found))

    def rejects(self, prompt: str, text: str) -> bool:
        whole, start = joined(prompt, text, fold=True)
        return any(_occurs(word, whole, start) for word in self._words if word in whole)


def _occurs(word: str, whole: str, start: int) -> bool:
    """Whether `word` stands in `whole` by itself and ends behind `start`."""
    at = whole.find(word, max(0, start - len(word) + 1))
    while at >= 0:
        end = at + len(word)
        before, after = whole[at - 1 : at] if at else "", whole[end : end + 1]
        joins_left = before and is_letter(before) and is_letter(word[0])
        joins_right = after and is_letter(after) and is_letter(word[-1])
        if not joins_left and not joins_right:
            return True
        at = whole.find(word, at + 1)
    return False


class Patterns:
    """Regular expressions, matched in linear time; a match counts as one of `Words` does."""

    name = "patterns"

    def __init__(self, patterns: Sequence[str]) -> None:
        self._automata = [Automaton(pattern) for pattern in patterns]

    def rejects(self, prompt: str, text: str) -> bool:
        whole, start = joined(prompt, text, fold=False)
        return any(automaton.reaches(whole, start) for automaton in self._automata)


class Opinion:
    """A classifier that is given texts by themselves."""

    def __init__(self, model: Classifier, label: str, runtime: Runtime) -> None:
        self._model, self._runtime, self._place = model, runtime, model.classes.index(label)

    def shares(self, texts: Sequence[str]) -> list[float]:
        """The probability of the class, text by text."""
        from genkit.text.classify.predict import logits_of, probabilities

        found = probabilities(logits_of(self._model, self._model.encode(texts), self._runtime))
        return [float(share) for share in found[:, self._place]]


class Classes:
    """Texts to which a classifier gives a class with `threshold` or more; an empty text passes."""

    name = "model"

    def __init__(self, opinion: Opinion, threshold: float) -> None:
        self._opinion, self._threshold = opinion, threshold

    def rejects(self, prompt: str, text: str) -> bool:
        return bool(plain(text).strip()) and self._opinion.shares([text])[0] >= self._threshold


@contextmanager
def open_judges(config: FilterConfig, *, device: str = "auto") -> Iterator[list[Judge]]:
    """The judges that `config` asks for, cheap ones first.

    Raises:
        UsageError: a pattern, label or device that cannot be.
        InputError: a file that cannot be read, or a model that is no classifier.
    """
    judges: list[Judge] = []
    if config.filter:
        judges.append(Words(_listed("--filter", config.filter)))
    if config.filter_pattern:
        judges.append(Patterns(_listed("--filter-pattern", config.filter_pattern)))
    with ExitStack() as stack:
        if config.filter_model is not None and config.filter_label is not None:
            opening = open_opinion(config.filter_model, config.filter_label, "--filter-", device=device)
            judges.append(Classes(stack.enter_context(opening), config.filter_threshold))
        yield judges


@contextmanager
def open_opinion(name: str, label: str, flags: str, *, device: str) -> Iterator[Opinion]:
    """The opinion of the classifier `name` on the class `label`.

    Args:
        flags: how the flags of the two begin, for messages.

    Raises:
        UsageError: it has no class of that name.
        InputError: a model that is no classifier.
    """
    folder = library.find(name)
    if folder.is_file() or library.kind(folder) != "text" or library.family(folder) != "classifier":
        raise InputError(f"{name} is no classifier", "make one with genkit train-classifier")

    from genkit.runtime.device import resolve
    from genkit.runtime.manager import Runtime, memory_guard
    from genkit.text.classify.predict import load_classifier

    runtime = Runtime(resolve(device, "auto", "auto", task="classify"))
    with runtime.settings(), memory_guard("use --device cpu, or a smaller classifier"):
        model = load_classifier(folder).to(runtime.device).eval()
        if label not in model.classes:
            near = suggest(label, model.classes) or f"it has {len(model.classes):,} classes"
            raise UsageError(f"{flags}label {label!r} is no class of {name}", near)
        yield Opinion(model, label, runtime)


def _listed(flag: str, given: Sequence[str]) -> list[str]:
    """What was given itself, and the lines of the files that `@` names."""
    found: list[str] = []
    for text in given:
        found += _lines(flag, text[1:]) if text.startswith("@") else [text]
    return found


def _lines(flag: str, path: str) -> list[str]:
    with input_errors(path):
        data = Path(path).read_bytes()
    try:
        lines = data[: _LONGEST + 1].decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{flag} @{path}: byte {error.start} is not UTF-8", "convert it with iconv") from None
    kept = [line.strip() for line in lines if line.strip()]
    if not kept or len(data) > _LONGEST:
        raise InputError(f"{flag} @{path}: {'longer than 16 MiB' if kept else 'is empty'}", "write a word a line")
    return kept

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
    """A classifier that is given the text alone; an empty text passes.

    Raises:
        UsageError: it has no class of that name.
    """

    name = "model"

    def __init__(self, model: Classifier, label: str, threshold: float, runtime: Runtime) -> None:
        if label not in model.classes:
            near = suggest(label, model.classes) or f"there are {len(model.classes):,}"
            raise UsageError(f"--filter-label {label!r} is no class of --filter-model", near)
        self._model, self._runtime = model, runtime
        self._place, self._threshold = model.classes.index(label), threshold

    def rejects(self, prompt: str, text: str) -> bool:
        from genkit.text.classify.predict import logits_of, probabilities

        if not plain(text).strip():
            return False
        shares = probabilities(logits_of(self._model, self._model.encode([text]), self._runtime))
        return bool(shares[0, self._place] >= self._threshold)


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
            folder = library.find(config.filter_model)
            if folder.is_file() or library.kind(folder) != "text" or library.family(folder) != "classifier":
                raise InputError(
                    f"--filter-model {config.filter_model} is no classifier", "make one with genkit train-classifier"
                )
            from genkit.runtime.device import resolve
            from genkit.runtime.manager import Runtime, memory_guard
            from genkit.text.classify.predict import load_classifier

            runtime = Runtime(resolve(device, "auto", "auto", task="classify"))
            stack.enter_context(runtime.settings())
            stack.enter_context(memory_guard("use --device cpu, or a smaller --filter-model"))
            model = load_classifier(folder).to(runtime.device).eval()
            judges.append(Opinion(model, config.filter_label, config.filter_threshold, runtime))
        yield judges


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

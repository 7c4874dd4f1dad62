"""Reading a corpus twice: once to know it, once to tokenize it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from genkit.errors import InputError
from genkit.text.chat import ChatTemplate
from genkit.text.documents import Piece, iter_pieces, list_files
from genkit.text.duplicates import Register
from genkit.text.learner import Learner
from genkit.text.sources import parse_sources
from genkit.text.split import Part, Split
from genkit.text.trainconfig import TextTrainConfig

Progress = Callable[[int, int], None]

_INTERVAL = 1 << 20  # bytes between two calls of it


class Readings:
    """The documents of `config.data` and `config.val_data`: `survey` them, then read them as `parts`.

    Args:
        template: what renders conversations.
        progress: called with bytes read and bytes to read, of both readings together.

    Attributes:
        sources: what to train on, in the order of reading.
        documents: used, repeats left out.
        duplicates: training documents left out because the same text is there
            already, or validates as a whole.
        conversations: how many of the documents are one.
        skipped: what was wrong with each file that was left out.
        total: bytes to read, twice.
    """

    def __init__(self, config: TextTrainConfig, template: ChatTemplate, progress: Progress) -> None:
        self.sources = parse_sources(config.data)
        self.documents = self.duplicates = self.conversations = 0
        self.skipped: dict[Path, InputError] = {}
        self._config = config
        self._template = template
        self._progress = progress
        self._files = [list_files([source.path]) for source in self.sources]
        self._val_files = list_files([config.val_data]) if config.val_data else []
        self._done = 0
        self.total = 2 * sum(map(_size, itertools.chain(*self._files, self._val_files)))
        # a text that is kept in several sources must be on one side in all of them
        scopes = 1 if config.keep_duplicates else len(self.sources)
        self._splits = [Split(0.0 if config.val_data else config.val_fraction) for _ in range(scopes)]
        self._register = Register()
        self._repeated = np.empty(0, dtype=bool)

    def survey(self, learner: Learner) -> None:
        """The first reading: which documents there are, and text to learn a tokenizer from.

        Raises:
            InputError: a file is bad and may not be left out, a source is empty, or
                all documents validate.
        """
        for number, source in enumerate(self.sources):
            scope, before = number % len(self._splits), len(self._register)
            for file in self._files[number]:
                split, start, talks = self._splits[scope].copy(), len(self._register), self.conversations
                try:
                    for piece in self._read(file):
                        self._splits[scope].survey(piece, self._register.add(piece))
                        learner.add(self._plain(piece))
                        self.conversations += piece.first and piece.spans is not None
                except InputError as error:
                    self._skip(file, error, found=file != Path(source.path))
                    self._splits[scope], self.conversations = split, talks
                    self._register.forget(start)
            self._check(source.path, self._files[number], len(self._register) - before)
        if not len(self._register):
            raise _unreadable(", ".join(source.path for source in self.sources), next(iter(self.skipped.values())))
        held_out = self._survey_validation(learner)
        if not self._config.keep_duplicates:
            self._repeated = self._register.repeats(held_out)
            self.duplicates = int(self._repeated.sum())
            if self.duplicates == len(self._register):
                raise InputError(
                    f"all the text to train on is also in {self._config.val_data}", "leave it out of one of them"
                )
        self.documents = len(self._register) - self.duplicates + len(held_out)

    def _survey_validation(self, learner: Learner) -> Register:
        register = Register()
        for file in self._val_files:
            start, talks = len(register), self.conversations
            try:
                for piece in self._read(file):
                    register.add(piece)
                    learner.add_alphabet(self._plain(piece))
                    self.conversations += piece.first and piece.spans is not None
            except InputError as error:
                self._skip(file, error, found=file != Path(str(self._config.val_data)))
                register.forget(start)
                self.conversations = talks
        if self._val_files:
            self._check(str(self._config.val_data), self._val_files, len(register))
        return register

    def parts(self, number: int) -> Iterator[Part]:
        """The second reading of a source, which must follow that of the one before."""
        if number == 0:
            self._at = -1  # the document's number
        split = self._splits[number % len(self._splits)]
        for file in self._files[number]:
            if file in self.skipped:
                self._done += _size(file)
                continue
            for piece in self._read(file):
                self._at += piece.first
                if self._at >= len(self._register):
                    raise InputError(f"{file} changed while it was read", "start again when nothing writes to it")
                if not (len(self._repeated) and self._repeated[self._at]):
                    yield from split.divide(piece, self._register.key(self._at))

    def validation_parts(self) -> Iterator[Part]:
        """The second reading of `--val-data`."""
        for file in self._val_files:
            if file not in self.skipped:
                for piece in self._read(file):
                    yield Part(True, piece.text, piece.last, piece.spans)

    def _read(self, file: Path) -> Iterator[Piece]:
        config, said, size = self._config, 0, _size(file)
        template = self._template if config.text_field == "text" else None
        try:
            for piece in iter_pieces(
                [file], text_field=config.text_field, errors=config.encoding_errors, template=template
            ):
                yield piece
                if piece.position - said > _INTERVAL:
                    said = piece.position
                    self._progress(self._done + said, self.total)
        finally:
            self._done += size

    def _plain(self, piece: Piece) -> str:
        """What a tokenizer learns from: the end mark is a token of its own already."""
        return piece.text if piece.spans is None else piece.text.replace(self._template.eos, "")

    def _skip(self, file: Path, error: InputError, *, found: bool) -> None:
        """Leave a bad file out, or raise.

        Args:
            found: whether it was found in a folder, not named by the user.
        """
        mode = self._config.on_bad_file
        if mode == "refuse" or (mode == "auto" and not found):
            remedies = filter(None, (error.hint, "leave the file out with --on-bad-file skip"))
            raise InputError(error.message, ", or ".join(remedies)) from error
        self.skipped[file] = error

    def _check(self, path: str, files: list[Path], documents: int) -> None:
        """Refuse a source without text, but one that is all bad may be skipped as a whole."""
        if documents:
            return
        if (bad := next((self.skipped[file] for file in files if file in self.skipped), None)) is None:
            raise InputError(f"there is no text in {path}", "leave it out, or give one that is not empty")
        if self._config.on_bad_file != "skip" or path == self._config.val_data:
            raise _unreadable(path, bad)


def _unreadable(path: str, error: InputError) -> InputError:
    return InputError(f"no file of {path} can be read: {error.message}", error.hint)


def _size(file: Path) -> int:
    return file.stat().st_size

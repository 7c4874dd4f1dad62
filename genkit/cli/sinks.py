"""Where the results of a batch go: a stream, or a file that a later command can go on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from genkit.cli.inorder import Result, Tasks
from genkit.cli.samples import to_json
from genkit.cli.terminal import write
from genkit.errors import InputError
from genkit.files import atomic_write

if TYPE_CHECKING:
    from genkit.text.batches.journal import Journal


class Sink(Protocol):
    """Takes results.

    Attributes:
        path: of the results; None for standard output.
        part: where they are kept until all are there; None where they are not.
        seed: what an unfinished job began with.
    """

    path: str | None
    part: str | None
    seed: int | None

    def begin(self, header: Mapping[str, Any], tasks: Tasks) -> Iterator[bool]:
        """Start the job of that header; for each task that is done already, whether it was refused."""

    def put(self, result: Result) -> None: ...

    def finish(self) -> None: ...


@contextmanager
def open_sink(path: str | None, *, clobber: bool) -> Iterator[Sink]:
    """The sink for `path`; None is standard output."""
    if path is None:
        yield _Stream(None, write)
    elif os.path.exists(path) and not os.path.isfile(path):
        with atomic_write(path, clobber=clobber) as file:  # a pipe or a device

            def put(text: str) -> None:
                file.write(text.encode())
                file.flush()

            yield _Stream(path, put)
    else:
        from genkit.text.batches.journal import Journal

        with Journal(path, clobber=clobber) as journal:
            yield _File(journal)


class _Stream:
    seed: int | None = None
    part: str | None = None

    def __init__(self, path: str | None, put: Callable[[str], None]) -> None:
        self.path, self._put = path, put

    def begin(self, header: Mapping[str, Any], tasks: Tasks) -> Iterator[bool]:
        return iter(())

    def put(self, result: Result) -> None:
        self._put(to_json(result.value) + "\n")

    def finish(self) -> None: ...


class _File:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.path: str | None = journal.path
        self.part: str | None = journal.part
        self.seed: int | None = journal.header["seed"] if journal.header else None

    def begin(self, header: Mapping[str, Any], tasks: Tasks) -> Iterator[bool]:
        from genkit.text.batches.journal import hash_line

        self._journal.begin(header)
        remedy = f"put the old input back, or remove {self.part} to begin anew"
        for done, record in enumerate(self._journal.records()):
            found = tasks.next() if tasks.wait() else None
            if found is None:
                raise InputError(f"{tasks.name} has become shorter: {done:,} lines of it, and more are done", remedy)
            if hash_line(found[0].data) != record.hash:
                raise InputError(f"{tasks.name}, line {found[0].number}: changed since it was done", remedy)
            yield record.refused

    def put(self, result: Result) -> None:
        from genkit.text.batches.journal import hash_line

        self._journal.append(result.value, hash_line(result.line.data))

    def finish(self) -> None:
        self._journal.finish()

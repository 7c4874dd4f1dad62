"""What both kinds of pipeline share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from genkit.errors import ResourceError
from genkit.runtime.device import Placement, Task, resolve

Note = Callable[[str], None]


class Pipeline:
    """What both kinds share: a model that is open until `close`; a context manager.

    Attributes:
        path: the model's folder or file.
        placement: where and how it runs, if a request asks for nothing else.
    """

    task: Task

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        engine: str = "auto",
        note: Note | None = None,
    ) -> None:
        self.path = path
        self.placement = resolve(device, precision, engine, task=self.task)
        self._place: Callable[[str], Placement] = functools.partial(resolve, device, precision, task=self.task)
        self._asked_device, self._asked_precision, self._asked_engine = device, precision, engine
        self._note: Note = note or (lambda line: None)
        with ExitStack() as undo:  # undone at once when the model does not load
            self._undo = undo
            self._open()
            self._undo = undo.pop_all()

    def _open(self) -> None:
        raise NotImplementedError

    def _prefer(self, precision: str) -> None:
        """Run in `precision` where the user left that open, and there is an engine that can."""
        if self._asked_precision != "auto":
            return
        usual = self._place

        def place(engine: str) -> Placement:
            try:
                return resolve(self._asked_device, precision, engine, task=self.task)
            except ResourceError:
                return usual(engine)

        self.placement, self._place = place(self._asked_engine), place

    def close(self) -> None:
        """Let the engines go, and put torch's settings back; once is enough."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def guard(engine: str, remedy: str) -> AbstractContextManager[None]:
    """Torch's lack of memory becomes one line; the other engines raise MemoryError."""
    if engine != "torch":
        return nullcontext()
    from genkit.runtime.manager import memory_guard

    return memory_guard(remedy)

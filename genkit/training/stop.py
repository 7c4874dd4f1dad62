"""Being asked to stop: finish the step, save, then leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from genkit.errors import GenkitError, Interrupted, Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """Notes SIGINT, SIGTERM and SIGHUP while a loop runs.

    The loop looks at `received` once a step. A second signal does not wait for
    the step: it raises KeyboardInterrupt where the program stands. Outside the
    main thread signals cannot be caught and nothing is noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # nohup ignores SIGHUP on purpose
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def error(self, saved: str, resume: str) -> GenkitError:
        """The error to raise once the state is saved.

        Args:
            saved: where the state lies, for the message.
            resume: the command that goes on from there.
        """
        kind = Interrupted if self.received is signal.SIGINT else Terminated
        return kind(
            f"stopped by {signal.Signals(self.received or signal.SIGTERM).name}; saved {saved}", f"resume: {resume}"
        )

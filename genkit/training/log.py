"""How training reports: one protocol, and loggers that write files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from genkit.errors import UsageError
from genkit.files import write_bytes


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        fraction: share of the run that is done, 0 to 1.
        unit: what `seen` counts, "tokens" or "images".
        rate: units a second; eta: seconds left.
        values: the latest losses, for display.
    """

    step: int
    fraction: float
    unit: str
    seen: int
    rate: float
    eta: float
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainReport:
    """What a training run leaves behind."""

    out: Path
    steps: int
    seen: int
    unit: str
    seconds: float
    metrics: Mapping[str, float]
    warnings: tuple[str, ...] = ()


def short(number: float) -> str:
    """`950`, `12.3k`, `1.2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


class MetricLogger(Protocol):
    """Receiver of a run's reports; the trainers know no other."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers worth keeping."""

    def progress(self, progress: Progress) -> None:
        """Called every step; must be cheap."""

    def message(self, text: str) -> None:
        """A sentence, or a sample of text, for whoever watches."""

    def close(self) -> None:
        """Flush and release."""


class JsonlLogger:
    """One JSON object a line, flushed as it comes.

    Args:
        path: the file to append to.
        after_step: on resume, lines of later steps are dropped first, because the
            run will write them again.
    """

    def __init__(self, path: Path, *, after_step: int | None = None) -> None:
        if after_step is not None and path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= after_step]
            write_bytes(path, "".join(line + "\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def progress(self, progress: Progress) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


class TensorBoardLogger:
    """Scalars for TensorBoard.

    Raises:
        UsageError: the `tensorboard` extra is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "--tensorboard needs the tensorboard package", "pip install 'genkit-cli[tensorboard]'"
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def progress(self, progress: Progress) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        self._writer.close()


class Loggers:
    """Several loggers as one."""

    def __init__(self, *loggers: MetricLogger) -> None:
        self._loggers = loggers

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.metrics(step, values)

    def progress(self, progress: Progress) -> None:
        for logger in self._loggers:
            logger.progress(progress)

    def message(self, text: str) -> None:
        for logger in self._loggers:
            logger.message(text)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()

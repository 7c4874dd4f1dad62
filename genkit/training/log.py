"""How training reports: one protocol, and loggers that write files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Protocol

from genkit.errors import UsageError
from genkit.files import read_json, write_bytes
from genkit.library import RECORD

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    """What a training run leaves behind.

    Attributes:
        verdict: how good the model is, in words, where the run can tell.
    """

    out: Path
    steps: int
    seen: int
    unit: str
    seconds: float
    metrics: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()


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

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None:
        """Sample pictures (N, H, W, C), for whoever watches."""

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
        # JSON has no name for what is not finite
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **known}) + "\n")
        self._file.flush()

    def progress(self, progress: Progress) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None:
        pass

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


class TensorBoardLogger:
    """Scalars, the run's settings and its samples for TensorBoard.

    Args:
        run: the run directory; events go into `tensorboard/`.
        after_step: on resume, TensorBoard forgets what it was told of later steps,
            because the run will tell it again.

    Raises:
        UsageError: the `tensorboard` extra is not installed.
    """

    def __init__(self, run: Path, *, after_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "--tensorboard needs the tensorboard package", "pip install 'genkit-cli[tensorboard]'"
            ) from error
        self._run, self._settled = run, after_step is not None
        self._shown = -1 if after_step is None else after_step  # step of the last sample
        self._writer: Any = SummaryWriter(
            str(run / "tensorboard"), purge_step=None if after_step is None else after_step + 1, flush_secs=30
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._show_settings()
        self._show_samples()

    def progress(self, progress: Progress) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None:
        pass  # the sheet in samples/ is shown, which the run that is resumed has too

    def close(self) -> None:
        self._show_samples()
        self._writer.close()

    def _show_settings(self) -> None:
        """Once the run has a record; a resumed run has told them."""
        if not self._settled and (self._run / RECORD).exists():
            self._settled = True
            settings = read_json(self._run / RECORD)["config"]
            rows = [f"| {name} | {value} |" for name, value in settings.items() if value is not None]
            self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *rows]), 0)

    def _show_samples(self) -> None:
        """Those drawn since the last look."""
        folder = self._run / "samples"
        found = ((path, re.fullmatch(r"step-(\d+)\.(txt|png)", path.name)) for path in folder.glob("step-*"))
        for step, path in sorted((int(match[1]), path) for path, match in found if match):
            if step <= self._shown:
                continue
            self._shown = step
            if path.suffix == ".txt":
                self._writer.add_text("samples", indent(path.read_text(encoding="utf-8"), "    "), step)
            else:
                self._add_image(path, step)

    def _add_image(self, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        self._writer.add_image("samples", np.asarray(shown.convert("RGB")), step, dataformats="HWC")


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

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None:
        for logger in self._loggers:
            logger.pictures(step, pixels)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()

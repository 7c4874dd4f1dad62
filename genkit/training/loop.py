"""Steps that both training loops take in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from genkit.training.chart import draw
from genkit.training.curves import curves_of, read_metrics
from genkit.training.log import JsonlLogger, Loggers, MetricLogger, TensorBoardLogger
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState

CURVES = "curves.png"
_PATIENCE = 10.0  # seconds between two words on slow reading


def restore(run: RunDir, state: TrainState, logger: MetricLogger, unit: str) -> None:
    """Load the newest whole checkpoint, and say which ones were not.

    Raises:
        InputError: there is none, or it is of another model.
    """
    checkpoint = run.load_checkpoint()
    state.restore(checkpoint)
    for name, reason in checkpoint.skipped:
        logger.message(f"checkpoint {name} skipped: {reason}")
    logger.message(f"resuming at step {state.step}, {state.seen:,} {unit}")


def open_logs(stack: ExitStack, run: RunDir, *, after_step: int | None, tensorboard: bool) -> Loggers:
    """`metrics.jsonl`, and TensorBoard's events where they are asked for; `stack` closes them."""
    logs: list[MetricLogger] = [JsonlLogger(run.metrics_path, after_step=after_step)]
    stack.callback(logs[0].close)
    if tensorboard:
        logs.append(TensorBoardLogger(run.path, after_step=after_step))
        stack.callback(logs[1].close)
    return Loggers(*logs)


def draw_curves(run: RunDir) -> None:
    """Put the learning curves so far into the run, as `curves.png`.

    Raises:
        OutputError: disk full or not writable.
    """
    curves = curves_of(read_metrics(run.metrics_path)) if run.metrics_path.exists() else None
    run.publish(raw={CURVES: draw(curves, run.path.resolve().name)} if curves else {})


def reading(logger: MetricLogger, line: Callable[[int, int], str]) -> Callable[[int, int], None]:
    """A progress callback for slow reading: `line(done, total)` once in ten seconds."""
    said = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > _PATIENCE:
            said = time.monotonic()
            logger.message(line(done, total))

    return on_progress

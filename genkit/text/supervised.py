"""Learning from examples with answers: the one loop for pairs of texts and for texts with classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from genkit.runtime.manager import Runtime
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.publish import crown
from genkit.text.step import train_step
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.ahead import Ahead
from genkit.training.log import Loggers, MetricLogger, TrainReport
from genkit.training.loop import draw_curves, open_logs, restore
from genkit.training.meter import Cadence, Meter
from genkit.training.optim import set_lr
from genkit.training.recovery import data_step, lr_factor, roll_back
from genkit.training.rundir import BEST, RunDir
from genkit.training.schedule import Budget
from genkit.training.state import TrainState
from genkit.training.stop import StopSignal

_LOG_INTERVAL = 10


class Task(Protocol):
    """What is learnt from what, and how it is measured."""

    @property
    def model(self) -> nn.Module:
        """In training mode, on its device."""

    @property
    def optimizers(self) -> dict[str, Optimizer]: ...

    @property
    def unit(self) -> str:
        """What `count` counts: "tokens" or "examples"."""

    @property
    def per_epoch(self) -> int:
        """How many of them an epoch has."""

    def lr_scale(self, fraction: float) -> float:
        """The learning rate after that share of the run, in units of its peak."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and answers of a step: a pure function of the seed and the step."""

    def count(self, x: Tensor, y: Tensor) -> int: ...

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a batch, in nats."""

    def validate(self, parts: int) -> dict[str, float]:
        """Figures on what is held out; none where nothing is.

        Args:
            parts: micro-batches that a training step takes, for the memory that there is.
        """

    def is_better(self, found: Mapping[str, float], best: Mapping[str, float]) -> bool: ...

    def sample(self, run: RunDir, step: int) -> dict[str, float]:
        """Show what the model writes; figures on that, if there are any."""

    def publish(self, run: RunDir, state: TrainState, into: str = "") -> None:
        """Put the model into the run's root, or its folder `into`."""

    def verdict(self, shown: Mapping[str, float]) -> tuple[str, ...]:
        """How good the model is, in words."""


def learn(
    task: Task,
    config: TextTrainConfig | ClassifyTrainConfig,
    run: RunDir,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    origin: Mapping[str, object],
    intervals: Mapping[str, int | None],
    parts: int,
    budget: Budget,
    started: float,
    command: str,
    resume: bool,
    warnings: list[str],
) -> TrainReport:
    """Train until the budget ends, and keep the model that validated best.

    Args:
        origin: what `genkit.json` tells of the model that this one begins as.
        intervals: steps between two times to "eval", "sample" and "save"; None: by the budget.
        parts: micro-batches of a step, to begin with.
        started: `time.monotonic()` from which the budget counts.
        command: what trains such a model, for the word on how to go on.

    Raises:
        TrainingStopped: the loss is not finite, also from the last checkpoint on.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    out = Path(config.out)
    with ExitStack() as stack:
        state = TrainState({"model": task.model}, task.optimizers, scaler=runtime.scaler, extra=dict(origin))
        if resume:
            restore(run, state, logger, task.unit)
        parts = int(state.extra.get("accumulate", parts))
        meter = Meter(budget, task.unit, started, before=state.elapsed, pauses=state.extra.get("pauses"))
        kept = open_logs(stack, run, after_step=state.step if resume else None, tensorboard=config.tensorboard)
        shown: dict[str, float] = dict(state.extra.get("metrics", {}))

        def note() -> None:
            """Bring what is saved beside the weights up to date."""
            state.elapsed = meter.elapsed
            state.extra |= {"metrics": dict(shown), "pauses": meter.pauses, "accumulate": parts}

        def save() -> None:
            with meter.measured("save"):
                note()
                run.save_checkpoint(state)
                task.publish(run, state)
                draw_curves(run)

        def tell(found: dict[str, float]) -> None:
            shown.update(found)
            Loggers(kept, logger).metrics(state.step, found)

        def validate() -> None:
            with meter.measured("eval"):
                if not (found := task.validate(parts)):
                    return
                tell(found)
                if "best" not in state.extra or task.is_better(found, state.extra["best"]):
                    state.extra |= {"best": {"step": state.step, **found}, "no_better": 0}
                    note()
                    task.publish(run, state, BEST)
                else:
                    state.extra["no_better"] = state.extra.get("no_better", 0) + 1

        def sample() -> None:
            with meter.measured("sample"):
                if found := task.sample(run, state.step):
                    tell(found)

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        batches = stack.enter_context(Ahead(task.batch, runtime.device))
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)
        cadences = {name: Cadence(meter, interval, fraction, name) for name, interval in intervals.items()}

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            scale = lr_factor(state) * task.lr_scale(fraction)
            set_lr(task.optimizers, scale)
            x, y = batches(data_step(state))
            loss, norm, needed = train_step(
                task.model, task.loss, task.optimizers, x, y, runtime,
                parts=parts, grad_clip=config.grad_clip, step=data_step(state),
            )  # fmt: skip
            if not math.isfinite(loss) or (runtime.scaler is None and not math.isfinite(norm)):
                roll_back(
                    run, state, logger,
                    problem=f"the loss is {loss:.4g} and the gradient {norm:.4g} at step {state.step + 1}",
                    remedy=f"lower --lr (now {config.lr:g}) and use --force, or look at the data",
                )  # fmt: skip
                save()
                fraction = meter.fraction(state.step, state.seen)
                continue
            if needed != parts:
                parts = needed
                logger.message(f"out of memory: each batch goes through in {parts} parts from here on")
            state.step, state.seen = state.step + 1, state.seen + task.count(x, y)
            fraction = meter.fraction(state.step, state.seen)
            due = {name for name, cadence in cadences.items() if cadence.due(state.step, fraction)}
            shown["loss"] = loss
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if outlook := meter.outlook(progress, epoch=task.per_epoch):
                logger.message(outlook)
            if state.step % _LOG_INTERVAL == 0:
                kept.metrics(
                    state.step,
                    {"loss": loss, "grad_norm": norm, "lr_scale": scale, task.unit: state.seen}
                    | {f"{task.unit}_per_second": progress.rate, "seconds": meter.elapsed},
                )

            # once in a while: validate, sample, save
            if stop.received is not None:
                save()
                raise stop.error(f"at step {state.step} in {out}", f"{command} --resume --out {quote(str(out))}")
            if fraction < 1:
                if "eval" in due:
                    validate()
                    if config.patience and state.extra.get("no_better", 0) >= config.patience:
                        logger.message(f"no better validation in {config.patience} measurements: stopping here")
                        break
                if "sample" in due:
                    sample()
                if "save" in due:
                    save()
        else:  # where patience ran out, this has just been measured
            validate()

        # --- the end ----------------------------------------------------------------------
        sample()
        save()
        best = state.extra.get("best")
        if best is not None and best["step"] != state.step:
            step, shown = crown(run)
            logger.message(f"step {step:,} validated best, with loss {shown['val_loss']:.4f}: that is the model kept")
        return TrainReport(
            out, state.step, state.seen, task.unit, meter.elapsed, dict(shown), tuple(warnings), task.verdict(shown)
        )

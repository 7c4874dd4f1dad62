"""Fine-tune a language model into a classifier: one loop (Devlin et al. 2019, Radford et al. 2018)."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path
from shlex import quote

import torch.nn.functional as F
from torch import Tensor

from genkit.errors import UsageError
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.data import Rows, encoded, numbers, prepare
from genkit.text.classify.measures import Measures, measure
from genkit.text.classify.predict import logits_of
from genkit.text.classify.publish import publish
from genkit.text.classify.start import as_begun, budget_of, optimizer_of, settle, starting_point
from genkit.text.publish import crown
from genkit.text.step import train_step
from genkit.training.ahead import Ahead
from genkit.training.log import Loggers, MetricLogger, TrainReport
from genkit.training.loop import draw_curves, open_logs, restore
from genkit.training.meter import Cadence, Meter
from genkit.training.optim import set_lr
from genkit.training.record import check_resumable, read_record
from genkit.training.recovery import data_step, lr_factor, roll_back
from genkit.training.rundir import BEST, RunDir
from genkit.training.schedule import lr_scale
from genkit.training.state import TrainState
from genkit.training.stop import StopSignal

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset({
    "budget", "steps", "epochs", "patience", "out", "data_license", "tensorboard", "eval_interval", "save_interval",
})  # fmt: skip
OUT_OF_MEMORY = "use a smaller --batch-size or --max-length, or a smaller --init-from"
_LOG_INTERVAL = 10


def train_classifier(
    config: ClassifyTrainConfig,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    resume: bool = False,
    force: bool = False,
    started: float | None = None,
) -> TrainReport:
    """Train, and leave a run directory that `genkit classify -m RUN` and `transformers` read.

    Args:
        runtime: an entered `Runtime` of one process.
        logger: besides the run's own `metrics.jsonl`; the caller closes it.
        resume: continue from the newest checkpoint of `config.out`; the result is
            the same, bit for bit, as that of a run that was never interrupted.
        force: start anew in a run directory that exists.
        started: `time.monotonic()` from which `config.budget` counts.

    Raises:
        UsageError: settings that contradict one another, or the run resumed.
        InputError: data, model or checkpoint refused.
        OutputError: the run directory cannot be written.
        TrainingStopped: the loss is not finite, also from the last checkpoint on.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    started = time.monotonic() if started is None else started
    budget_of(config, 1)  # refuses what contradicts itself before anything is read
    if runtime.world_size > 1:
        raise UsageError("a classifier trains in one process", "run it without torchrun")
    out = Path(config.out)
    with ExitStack() as stack:
        stack.enter_context(memory_guard(OUT_OF_MEMORY))
        run = stack.enter_context(RunDir.resume(out) if resume else RunDir.create(out, force=force))
        expected = None
        if resume:
            config = as_begun(config, read_record(out))
            expected = check_resumable(out, config, MAY_CHANGE, runtime.placement.precision)

        # --- data and model ---------------------------------------------------------------
        data = prepare(config, expected=expected)
        start = starting_point(config, data.classes, resumed=out if resume else None)
        model = start.model.to(runtime.device).train()
        config = settle(config, start.model)
        rows = Rows(start.model, data.train, config.seed)
        val_rows, val_labels = encoded(start.model, data.val), numbers(data.val, data.classes)
        warnings = data.warnings()
        if rows.cut:
            warnings.append(f"{rows.cut:,} texts reach --max-length {config.max_length}: what lies beyond is not seen")
        for line in (data.line(), f"{config.init_from}: {start.model.num_parameters() / 1e6:.2f} M parameters"):
            logger.message(line)
        for warning in warnings:
            logger.message(warning)

        # --- optimizer and state ----------------------------------------------------------
        optimizers = optimizer_of(start.model, config)
        state = TrainState(
            modules={"model": model}, optimizers=optimizers, scaler=runtime.scaler, extra=dict(start.origin)
        )
        if resume:
            restore(run, state, logger, "examples")
        weights = rows.weights().to(runtime.device) if config.balance else None

        def compute_loss(ids: Tensor, labels: Tensor) -> Tensor:
            losses = F.cross_entropy(model(ids).float(), labels, reduction="none")  # (B,)
            return (losses if weights is None else losses * weights[labels]).mean()

        parts = int(state.extra.get("parts", 1))
        meter = Meter(
            budget_of(config, len(data.train)),
            "examples",
            started,
            before=state.elapsed,
            pauses=state.extra.get("pauses"),
        )
        kept = open_logs(stack, run, after_step=state.step if resume else None, tensorboard=config.tensorboard)
        shown: dict[str, float] = dict(state.extra.get("metrics", {}))

        def note() -> None:
            """Bring what is saved beside the weights up to date."""
            state.elapsed = meter.elapsed
            state.extra |= {"metrics": dict(shown), "pauses": meter.pauses, "parts": parts}

        def save() -> None:
            with meter.measured("save"):
                note()
                run.save_checkpoint(state)
                publish(run, start.model, data, config, runtime, state)
                draw_curves(run)

        def validate() -> None:
            if not data.val:
                return
            with meter.measured("eval"):
                found = _measured(measure(data.classes, val_labels, logits_of(start.model, val_rows, runtime)))
                shown.update(found)
                Loggers(kept, logger).metrics(state.step, found)
                if _better(found, state.extra.get("best")):
                    state.extra |= {"best": {"step": state.step, **found}, "no_better": 0}
                    note()
                    publish(run, start.model, data, config, runtime, state, into=BEST)
                else:
                    state.extra["no_better"] = state.extra.get("no_better", 0) + 1

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        batches = stack.enter_context(Ahead(lambda step: rows.batch(step, config.batch_size), runtime.device))
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)
        intervals = {"eval": config.eval_interval, "save": config.save_interval}
        cadences = {name: Cadence(meter, interval, fraction, name) for name, interval in intervals.items()}

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            # a linear schedule: up in the warm-up, then down to nothing
            scale = lr_factor(state) * lr_scale("wsd", fraction, warmup=config.warmup, cooldown=1 - config.warmup)
            set_lr(optimizers, scale)
            x, y = batches(data_step(state))  # (B, 3, T), (B,)
            loss, norm, needed = train_step(
                model, compute_loss, optimizers, x, y, runtime,
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
            state.step, state.seen = state.step + 1, state.seen + len(x)
            fraction = meter.fraction(state.step, state.seen)
            due = {name for name, cadence in cadences.items() if cadence.due(state.step, fraction)}
            shown["loss"] = loss
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if outlook := meter.outlook(progress, epoch=len(data.train)):
                logger.message(outlook)
            if state.step % _LOG_INTERVAL == 0:
                kept.metrics(
                    state.step,
                    {"loss": loss, "grad_norm": norm, "lr_scale": scale, "examples": state.seen}
                    | {"examples_per_second": progress.rate, "seconds": meter.elapsed},
                )

            # once in a while: validate, save
            if stop.received is not None:
                save()
                raise stop.error(
                    f"at step {state.step} in {out}", f"genkit train-classifier --resume --out {quote(str(out))}"
                )
            if fraction < 1:
                if "eval" in due:
                    validate()
                    if config.patience and state.extra.get("no_better", 0) >= config.patience:
                        logger.message(f"no better validation in {config.patience} measurements: stopping here")
                        break
                if "save" in due:
                    save()
        else:  # where patience ran out, this has just been measured
            validate()

        # --- the end ----------------------------------------------------------------------
        save()
        best = state.extra.get("best")
        if best is not None and best["step"] != state.step:
            step, shown = crown(run)
            logger.message(f"step {step:,} validated best, with accuracy {shown['val_accuracy']:.4f}: it is kept")
        verdict = _verdict(shown, len(data.val)) if data.val else ()
        return TrainReport(
            out, state.step, state.seen, "examples", meter.elapsed, dict(shown), tuple(warnings), verdict
        )


def _measured(found: Measures) -> dict[str, float]:
    """The figures of a validation by their names in metrics.jsonl."""
    return {
        "val_loss": found.loss,
        "val_accuracy": found.accuracy,
        "val_macro_f1": found.macro_f1,
        "val_majority": found.majority,
    }


def _better(found: dict[str, float], best: dict[str, float] | None) -> bool:
    """By macro F1, which heeds rare classes; where it is equal, by the loss."""
    if best is None:
        return True
    return (found["val_macro_f1"], -found["val_loss"]) > (best["val_macro_f1"], -best["val_loss"])


def _verdict(shown: dict[str, float], examples: int) -> tuple[str, ...]:
    return (
        f"accuracy {shown['val_accuracy']:.4f}, macro F1 {shown['val_macro_f1']:.4f} on {examples:,} held-out texts; "
        f"always naming the most frequent class would give {shown['val_majority']:.4f}",
    )

"""Train an encoder-decoder on pairs: one loop (Sutskever et al. 2014, Raffel et al. 2020)."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path
from shlex import quote

import torch

from genkit.errors import UsageError
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.config import TextTrainConfig
from genkit.text.publish import crown
from genkit.text.recipe import budget_of
from genkit.text.seq2seq.batches import Batches, units
from genkit.text.seq2seq.data import prepare
from genkit.text.seq2seq.evaluate import evaluate
from genkit.text.seq2seq.publish import publish, sample
from genkit.text.seq2seq.start import as_begun, bounded, optimizers_of, settled, starting_point
from genkit.text.step import train_step
from genkit.training.ahead import Ahead
from genkit.training.log import Loggers, MetricLogger, TrainReport
from genkit.training.loop import draw_curves, open_logs, reading, restore
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
    "budget", "steps", "tokens", "max_epochs", "patience", "out", "data_license", "tensorboard",
    "eval_interval", "eval_tokens", "sample_interval", "sample_prompt", "save_interval",
})  # fmt: skip
OUT_OF_MEMORY = "use a smaller --batch-size, a larger --accumulate or a smaller --max-source-tokens"
_LOG_INTERVAL = 10


def train_seq2seq(
    config: TextTrainConfig,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    resume: bool = False,
    force: bool = False,
    started: float | None = None,
) -> TrainReport:
    """Train, and leave a run directory that `genkit text -m RUN` and `transformers` read.

    Args:
        config: `init_from` names an encoder-decoder.
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
        raise UsageError("sequence-to-sequence models train in one process", "run it without torchrun")
    out = Path(config.out)
    with ExitStack() as stack:
        stack.enter_context(memory_guard(OUT_OF_MEMORY))
        run = stack.enter_context(RunDir.resume(out) if resume else RunDir.create(out, force=force))
        expected = None
        if resume:
            config = as_begun(config, read_record(out))
            expected = check_resumable(out, config, MAY_CHANGE, runtime.placement.precision)

        # --- data and model ---------------------------------------------------------------
        start = starting_point(config, resumed=out if resume else None)
        model = start.model
        config = bounded(config, model)
        pairs = prepare(config, model, reading(logger, _read), expected=expected)
        config = settled(config, model, pairs)
        torch.manual_seed(config.seed)
        model.to(runtime.device).train()
        warnings = pairs.warnings(config)
        for line in (pairs.line(), model.line(), *warnings):
            logger.message(line)

        # --- optimizer and state ----------------------------------------------------------
        optimizers = optimizers_of(model, config)
        state = TrainState(
            modules={"model": model}, optimizers=optimizers, scaler=runtime.scaler, extra=dict(start.origin)
        )
        if resume:
            restore(run, state, logger, "tokens")
        parts = int(state.extra.get("accumulate", config.accumulate))
        budget = budget_of(config, pairs.tokens_per_epoch)
        meter = Meter(budget, "tokens", started, before=state.elapsed, pauses=state.extra.get("pauses"))
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
                publish(run, model, pairs, config, runtime, state)
                draw_curves(run)

        def validate() -> None:
            if not len(pairs.val):
                return
            with meter.measured("eval"):
                most = max(1, config.batch_size // parts)
                found = evaluate(model, pairs, runtime, max_tokens=config.eval_tokens, batch_size=most)
                shown.update(found)
                Loggers(kept, logger).metrics(state.step, found)
                if found["val_loss"] < state.extra.get("best", {}).get("val_loss", math.inf):
                    state.extra |= {"best": {"step": state.step, **found}, "no_better": 0}
                    note()
                    publish(run, model, pairs, config, runtime, state, into=BEST)
                else:
                    state.extra["no_better"] = state.extra.get("no_better", 0) + 1

        def draw() -> None:
            with meter.measured("sample"):
                found = sample(run, model, pairs, config, runtime, state.step, logger)
            if found:
                shown.update(found)
                Loggers(kept, logger).metrics(state.step, found)

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        batches = stack.enter_context(
            Ahead(Batches(pairs, batch_size=config.batch_size, seed=config.seed), runtime.device)
        )
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)
        intervals = {"eval": config.eval_interval, "sample": config.sample_interval, "save": config.save_interval}
        cadences = {name: Cadence(meter, interval, fraction, name) for name, interval in intervals.items()}

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            scale = lr_factor(state) * lr_scale(
                config.schedule, fraction, warmup=config.warmup, cooldown=config.decay, floor=config.min_lr
            )
            set_lr(optimizers, scale)
            x, y = batches(data_step(state))  # (B, S), (B, T)
            loss, norm, needed = train_step(
                model, model, optimizers, x, y, runtime,
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
            state.step, state.seen = state.step + 1, state.seen + units(x, y)
            fraction = meter.fraction(state.step, state.seen)
            due = {name for name, cadence in cadences.items() if cadence.due(state.step, fraction)}
            shown["loss"] = loss
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if outlook := meter.outlook(progress, epoch=pairs.tokens_per_epoch):
                logger.message(outlook)
            if state.step % _LOG_INTERVAL == 0:
                kept.metrics(
                    state.step,
                    {"loss": loss, "grad_norm": norm, "lr_scale": scale, "tokens": state.seen}
                    | {"tokens_per_second": progress.rate, "seconds": meter.elapsed},
                )

            # once in a while: validate, sample, save
            if stop.received is not None:
                save()
                raise stop.error(
                    f"at step {state.step} in {out}", f"genkit train-text --resume --out {quote(str(out))}"
                )
            if fraction < 1:
                if "eval" in due:
                    validate()
                    if config.patience and state.extra.get("no_better", 0) >= config.patience:
                        logger.message(f"no better validation in {config.patience} measurements: stopping here")
                        break
                if "sample" in due:
                    draw()
                if "save" in due:
                    save()
        else:  # where patience ran out, this has just been measured
            validate()

        # --- the end ----------------------------------------------------------------------
        draw()
        save()
        best = state.extra.get("best")
        if best is not None and best["step"] != state.step:
            step, shown = crown(run)
            logger.message(f"step {step:,} validated best, with {shown['val_loss']:.4f}: that is the model kept")
        return TrainReport(out, state.step, state.seen, "tokens", meter.elapsed, dict(shown), tuple(warnings))


def _read(pairs: int, paths: int) -> str:
    return f"reading data: {pairs:,} pairs so far"

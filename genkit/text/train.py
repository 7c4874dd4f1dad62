"""Train a GPT: one loop, from scratch or from a model."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shlex import quote

import torch

from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.data import prepare
from genkit.text.evaluate import evaluate
from genkit.text.models.gpt import GPT
from genkit.text.publish import crown, publish, sample
from genkit.text.recipe import as_begun, budget_of
from genkit.text.shape import shape_line
from genkit.text.start import Lesson, check_fit, corpus_shape, optimizers_of, settled, starting_point, train_state
from genkit.text.step import OUT_OF_MEMORY, train_step, training_batch
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.ahead import Ahead
from genkit.training.log import Loggers, MetricLogger, TrainReport
from genkit.training.loop import draw_curves, open_logs, reading, restore
from genkit.training.meter import Cadence, Meter
from genkit.training.optim import set_lr
from genkit.training.record import check_resumable, read_record
from genkit.training.recovery import data_step, lr_factor, roll_back
from genkit.training.rundir import BEST, RunDir
from genkit.training.schedule import lr_scale
from genkit.training.stop import StopSignal
from genkit.training.turn import agree, check_split

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset({
    "budget", "steps", "tokens", "max_epochs", "patience", "out", "data_license", "compile", "parallel", "tensorboard",
    "eval_interval", "eval_tokens", "sample_interval", "sample_prompt", "save_interval",
})  # fmt: skip
_LOG_INTERVAL = 10


def train_text(
    config: TextTrainConfig,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    resume: bool = False,
    force: bool = False,
    started: float | None = None,
    lesson: Lesson | None = None,
) -> TrainReport:
    """Train, and leave a run directory that `genkit text -m RUN` and `transformers` read.

    Under torchrun every rank calls it. Rank 0 reads the data first, writes and reports.

    Args:
        runtime: an entered `Runtime`.
        logger: besides the run's own `metrics.jsonl`; the caller closes it.
        resume: continue from the newest checkpoint of `config.out`; the result is
            the same, bit for bit, as that of a run that was never interrupted.
        force: start anew in a run directory that exists.
        started: `time.monotonic()` from which `config.budget` counts.
        lesson: what to begin with and to learn instead of what `config` says, on one rank.

    Raises:
        UsageError: settings that contradict one another, or the run resumed.
        InputError: data, model or checkpoint refused.
        OutputError: the run directory cannot be written.
        TrainingStopped: the loss is not finite, also from the last checkpoint on.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    started = time.monotonic() if started is None else started
    budget_of(config, 1)  # refuses what contradicts itself before anything is read
    out, ranks = Path(config.out), runtime.ranks
    if not ranks.is_main:
        logger = Loggers()
    with ExitStack() as stack:
        stack.enter_context(memory_guard(OUT_OF_MEMORY))
        opened = RunDir.resume(out, ranks=ranks) if resume else RunDir.create(out, force=force, ranks=ranks)
        run = stack.enter_context(opened)
        expected = None
        if resume:
            config = as_begun(config, read_record(out))
            expected = check_resumable(out, config, MAY_CHANGE, runtime.placement.precision)

        # --- data and model ---------------------------------------------------------------
        resumed = out if resume else None
        start = lesson.start(resumed) if lesson else starting_point(config, resumed=resumed)
        with ranks.main_first():
            corpus = prepare(config, run.data, start.tokenizer, reading(logger, _megabytes), expected=expected)
        config = settled(config, start, corpus, runtime)
        check_split(config.batch_size, ranks)
        torch.manual_seed(config.seed)
        model = start.model or GPT(corpus_shape(config, corpus), config.dropout or 0.0)
        shared = runtime.wrap(model.train(), config.parallel)
        warnings = [*corpus.warnings(), *check_fit(config, model, corpus)]
        logger.message(corpus.line())
        logger.message(shape_line(model.config, model.num_parameters(), model.num_parameters(trained=True)))
        for warning in warnings:
            logger.message(warning)

        # --- optimizers and state ---------------------------------------------------------
        optimizers = optimizers_of(model, config, runtime)
        state = train_state(model, optimizers, runtime, start)
        if resume:
            restore(run, state, logger, "tokens")
        # DistributedDataParallel sees the passes through its own forward only
        loss_of = model.loss if shared is model else lambda ids, targets: shared(ids, targets=targets)
        if lesson:
            loss_of = partial(lesson.loss, model)
        compute_loss = runtime.compile(loss_of, bool(config.compile))
        parts = state.extra.get("accumulate", config.accumulate)
        budget = budget_of(config, corpus.tokens_per_epoch)
        meter = Meter(budget, "tokens", started, before=state.elapsed, pauses=state.extra.get("pauses"))
        kept = Loggers()
        if ranks.is_main:
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
                publish(run, model, corpus, config, runtime, state)
                draw_curves(run)

        def measure() -> None:
            if corpus.val is None:
                return
            with meter.measured("eval"):
                found = evaluate(
                    model,
                    corpus.val,
                    runtime,
                    mask=corpus.val_mask,
                    bytes_per_token=corpus.bytes_per_target,
                    max_tokens=config.eval_tokens,
                    batch_size=max(1, config.batch_size // (parts * ranks.world_size)),
                )
                shown.update(found)
                Loggers(kept, logger).metrics(state.step, found)
                if found["val_loss"] < state.extra.get("best", {}).get("val_loss", math.inf):
                    state.extra |= {"best": {"step": state.step, **found}, "no_better": 0}
                    note()
                    publish(run, model, corpus, config, runtime, state, into=BEST)
                else:
                    state.extra["no_better"] = state.extra.get("no_better", 0) + 1

        def draw() -> None:
            if runtime.sharded:
                return  # no rank has a model to draw from; `genkit text` draws from what is saved
            with meter.measured("sample"):
                sample(run, model, corpus.tokenizer, config, runtime, state.step, logger)

        def main_fraction() -> float:
            """Share of the run that is done, by rank 0's clock."""
            return ranks.gather([meter.fraction(state.step, state.seen)])[0][0]

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        fetch = partial(training_batch, config, model, corpus)
        batches = stack.enter_context(Ahead(fetch, runtime.device))
        stop = stack.enter_context(StopSignal())
        fraction = main_fraction()
        intervals = {"eval": config.eval_interval, "sample": config.sample_interval, "save": config.save_interval}
        cadences = {name: Cadence(meter, interval, fraction, name) for name, interval in intervals.items()}

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            scale = lr_factor(state) * lr_scale(
                config.schedule, fraction, warmup=config.warmup, cooldown=config.decay, floor=config.min_lr
            )
            set_lr(optimizers, scale)
            x, y = batches(data_step(state))  # (B, T) each
            share, norm, needed = train_step(
                model, compute_loss, optimizers, x, y, runtime,
                parts=parts, grad_clip=config.grad_clip, step=data_step(state),
            )  # fmt: skip
            ahead = state.step + 1, state.seen + x.numel()
            reached = meter.fraction(*ahead)
            due = {name: cadence.due(ahead[0], reached) for name, cadence in cadences.items()}
            turn = agree(ranks, loss=share, fraction=reached, due=due, stop=stop)
            loss = turn.loss
            if not math.isfinite(loss) or (runtime.scaler is None and not math.isfinite(norm)):
                roll_back(
                    run, state, logger,
                    problem=f"the loss is {loss:.4g} and the gradient {norm:.4g} at step {state.step + 1}",
                    remedy=f"lower --lr (now {config.lr:g}) and use --force, or look at the data",
                )  # fmt: skip
                save()
                fraction = main_fraction()
                continue
            if needed != parts:
                parts = needed
                logger.message(f"out of memory: each batch goes through in {parts} parts from here on")

            (state.step, state.seen), fraction = ahead, turn.fraction
            shown["loss"] = loss
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if outlook := meter.outlook(progress, epoch=corpus.tokens_per_epoch):
                logger.message(outlook)
            if state.step % _LOG_INTERVAL == 0:
                kept.metrics(
                    state.step,
                    {"loss": loss, "grad_norm": norm, "lr_scale": scale, "tokens": state.seen}
                    | {"tokens_per_second": progress.rate, "seconds": meter.elapsed},
                )

            # once in a while: validate, sample, save
            if turn.stopped:
                save()
                command = lesson.command if lesson else "genkit train-text"
                raise stop.error(f"at step {state.step} in {out}", f"{command} --resume --out {quote(str(out))}")
            if fraction < 1:
                if "eval" in turn.due:
                    measure()
                    if config.patience and state.extra.get("no_better", 0) >= config.patience:
                        logger.message(f"no better validation in {config.patience} measurements: stopping here")
                        break
                if "sample" in turn.due:
                    draw()
                if "save" in turn.due:
                    save()
        else:  # where patience ran out, this has just been measured
            measure()

        # --- the end ----------------------------------------------------------------------
        draw()
        save()
        best = state.extra.get("best")
        if best is not None and best["step"] != state.step:
            step, shown = crown(run)
            logger.message(f"step {step:,} validated best, with {shown['val_loss']:.4f}: that is the model kept")
        return TrainReport(out, state.step, state.seen, "tokens", meter.elapsed, dict(shown), tuple(warnings))


def _megabytes(done: int, total: int) -> str:
    return f"reading data: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"

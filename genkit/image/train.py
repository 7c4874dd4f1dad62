"""Train a GAN: one loop over a folder of images."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shlex import quote

from genkit.errors import TrainingStopped
from genkit.image.alarms import Alarms, summary
from genkit.image.batch import is_finite, play, steer, training_batch
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare
from genkit.image.finish import Smoothing
from genkit.image.judge import Judge, affordable_images
from genkit.image.models.networks import Generator
from genkit.image.models.store import model_line
from genkit.image.publish import crown, film, publish, sampler, sheet
from genkit.image.recipe import as_begun, budget_of, settle, shape_of
from genkit.image.start import MAY_CHANGE, OUT_OF_MEMORY, begin, remedy_of
from genkit.image.verdict import verdict
from genkit.runtime.manager import Runtime, memory_guard
from genkit.training.ahead import Ahead
from genkit.training.log import Loggers, MetricLogger, TrainReport
from genkit.training.loop import draw_curves, open_logs, reading, restore
from genkit.training.meter import Cadence, Meter
from genkit.training.optim import ema_decay, set_lr, update_ema
from genkit.training.record import check_resumable, read_record
from genkit.training.recovery import COLLAPSED, MOST, NOT_FINITE, data_step, lr_factor, roll_back
from genkit.training.rundir import BEST, RunDir
from genkit.training.schedule import lr_scale
from genkit.training.stop import StopSignal
from genkit.training.turn import agree, check_split

_LOG_INTERVAL = 10
_INERTIA = 0.98  # of the losses shown
_MOST_COLLAPSES = 2  # times a run goes back because the model is no longer good


def train_gan(
    config: GANTrainConfig,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    resume: bool = False,
    force: bool = False,
    started: float | None = None,
) -> TrainReport:
    """Train, and leave a run directory that `genkit image -m RUN` draws from.

    Under torchrun every rank calls it. Rank 0 reads the images first, writes and reports.

    Args:
        runtime: an entered `Runtime`.
        logger: besides the run's own `metrics.jsonl`; the caller closes it.
        resume: continue from the newest checkpoint of `config.out`; the result is
            the same, bit for bit, as that of a run that was never interrupted, if it
            measures at fixed steps (`eval_interval`), else up to which model measured best.
        force: start anew in a run directory that exists.
        started: `time.monotonic()` from which `config.budget` counts.

    Raises:
        UsageError: settings that contradict one another, or the run resumed.
        InputError: images or checkpoint refused.
        OutputError: the run directory cannot be written.
        TrainingStopped: a loss is not finite, or the generator collapses, also after
            going back; the best model is kept.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    started = time.monotonic() if started is None else started
    budget = budget_of(config)  # refuses what contradicts itself before anything is read
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

        # --- data, networks and judge -----------------------------------------------------
        with ranks.main_first():
            store = prepare(config, run.data, on_progress=reading(logger, _files), expected=expected)
        config = settle(config, store.report, runtime)
        check_split(config.batch_size, ranks)
        game, average, state = begin(config, shape_of(config, store.classes), runtime)
        warnings = store.report.warnings(config.batch_size)
        if budget.seconds and (before := time.monotonic() - started) > budget.seconds / 2:
            warnings.append(
                f"reading the images took {before:.0f} of the {budget.seconds:.0f} seconds of --budget, which leaves "
                "little to train: --resume with a longer one does not read them again"
            )
        for line in (*store.report.lines(), model_line(game.generator, game.discriminator), *warnings):
            logger.message(line)
        if resume:
            restore(run, state, logger, "images")
            game.restore(state.extra["game"])
        smoothing = Smoothing(config.smoothing, state.extra.get("smoothing"))
        n = config.eval_images or state.extra.get("eval_images")
        n = n or affordable_images(store, runtime, budget.seconds, tries=smoothing.tries)
        state.extra["eval_images"] = int(ranks.gather([n])[0][0])
        judge = Judge(store, runtime, images=state.extra["eval_images"], flip=bool(config.flip))
        alarms = Alarms(state.extra.get("alarms"))
        meter = Meter(budget, "images", started, before=state.elapsed, pauses=state.extra.get("pauses"))
        kept = Loggers()
        if ranks.is_main:
            kept = open_logs(stack, run, after_step=state.step if resume else None, tensorboard=config.tensorboard)
        shown: dict[str, float] = dict(state.extra.get("metrics", {}))
        ready: dict[int, Generator] = {}  # by step: what draws, measures and saves has the same statistics

        def finished() -> Generator:
            if state.step not in ready:
                ready.clear()
                ready[state.step] = sampler(average, store, config, runtime)
            smoothing.apply(ready[state.step])
            return ready[state.step]

        def note() -> None:
            """Bring what is saved beside the weights up to date."""
            state.elapsed = meter.elapsed
            state.extra |= {"metrics": dict(shown), "pauses": meter.pauses, "alarms": alarms.to_dict()}
            state.extra |= {"game": game.to_dict(), "smoothing": smoothing.to_dict()}

        def save() -> None:
            with meter.measured("save"):
                note()
                run.save_checkpoint(state, spare=state.extra.get("best", {}).get("step"))
                publish(run, finished(), store, config, runtime, state)
                draw_curves(run)

        def draw() -> None:
            with meter.measured("sample"):
                logger.pictures(state.step, sheet(run, finished(), runtime, state.step))
                film(run, runtime)

        def tell(messages: list[str]) -> None:
            for message in messages:
                logger.message(message)

        def measure() -> bool:
            """Judge the model; whether it is the best so far, which is saved at once."""
            best = state.extra.get("best", {}).get(judge.metric)
            with meter.measured("eval"):
                found = smoothing.measure(finished(), judge)
                found = dict(zip(found, ranks.gather(list(found.values()))[0], strict=True))  # rank 0's
                smoothing.adopt(found)
                tell(alarms.measured(state.step, found, fraction=fraction, best=best))
                shown.update(found | {f"{judge.metric}_floor": judge.floor})
                kept.metrics(state.step, found | alarms.numbers())
                logger.metrics(state.step, found)
                if best is not None and found[judge.metric] >= best:
                    state.extra["no_better"] = state.extra.get("no_better", 0) + 1
                    return False
                state.extra |= {"best": {"step": state.step, **found}, "no_better": 0}
                note()
                publish(run, finished(), store, config, runtime, state, into=BEST)
            save()  # what a run goes back to
            return True

        def go_back(
            problem: str, remedy: str, *, cause: str = NOT_FINITE, up_to: int | None = None, most: int = MOST
        ) -> None:
            """Restore the newest checkpoint, or one before; where that did not help, keep the best and stop."""
            at = state.step
            try:
                roll_back(run, state, logger, problem=problem, remedy=remedy, cause=cause, up_to=up_to, most=most)
            except TrainingStopped:
                note()
                if "best" in state.extra:
                    crown(run, runtime, state)
                raise
            ready.clear()
            game.restore(state.extra["game"])
            smoothing.restore(state.extra.get("smoothing"))
            shown.clear()  # what is published and watched from here on is the good model's
            shown.update(state.extra["metrics"])
            alarms.went_back(at)
            save()

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        batches = stack.enter_context(Ahead(partial(training_batch, config, store), runtime.device))
        stop = stack.enter_context(StopSignal())

        def main_fraction() -> float:
            """Share of the run that is done, by rank 0's clock."""
            return ranks.gather([meter.fraction(state.step, state.seen)])[0][0]

        fraction = main_fraction()
        intervals = {"eval": config.eval_interval, "sample": config.sample_interval, "save": config.save_interval}
        cadences = {name: Cadence(meter, interval, fraction, name) for name, interval in intervals.items()}

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            scale = lr_factor(state) * lr_scale(config.schedule, fraction, warmup=0.0, cooldown=config.cooldown)
            set_lr(state.optimizers, scale)
            losses, told = play(game, batches(data_step(state)), runtime, data_step(state))
            if told:
                logger.message(told)
            rows = game.rows(config.batch_size)
            ahead = state.step + 1, state.seen + rows
            reached = meter.fraction(*ahead)
            due = {name: cadence.due(ahead[0], reached) for name, cadence in cadences.items()}
            if (reached == 1 or any(due.values())) and not is_finite(game):  # else the next losses tell
                losses["weights"] = math.nan
            turn = agree(ranks, loss=sum(losses.values()), fraction=reached, due=due, stop=stop)
            if not math.isfinite(turn.loss):
                go_back(
                    f"{', '.join(f'{k} {v:.3g}' for k, v in losses.items())} at step {state.step + 1}",
                    remedy_of(config),
                )
                fraction = main_fraction()
                continue

            (state.step, state.seen), fraction = ahead, turn.fraction
            steer(game, store, config, runtime, state.step, losses)
            update_ema(average, game.generator, ema_decay(config.ema_images, rows, state.seen))
            for name, value in losses.items():
                shown[name] = _INERTIA * shown.get(name, value) + (1 - _INERTIA) * value
            tell(alarms.watch(state.step, shown["d_loss"]))
            telling = {name: shown[name] for name in ("d_loss", "g_loss", judge.metric) if name in shown}
            progress = meter.progress(state.step, state.seen, fraction, telling)
            logger.progress(progress)
            if outlook := meter.outlook(progress, epoch=store.report.count):
                logger.message(outlook)
            if state.step % _LOG_INTERVAL == 0:
                kept.metrics(
                    state.step,
                    losses
                    | {"augment": game.strength.p, "lr_scale": scale}
                    | {"images": state.seen, "images_per_second": progress.rate}
                    | {"seconds": meter.elapsed},
                )

            # once in a while: judge, draw, save
            if turn.stopped:
                film(run, runtime, ended=True)
                save()
                raise stop.error(f"at step {state.step} in {out}", f"genkit train-gan --resume --out {quote(str(out))}")
            if fraction < 1:
                if "eval" in turn.due and not measure():
                    if alarms.broken:
                        go_back(
                            f"{alarms.broken} at step {state.step:,}",
                            remedy_of(config),
                            cause=COLLAPSED,
                            up_to=state.extra["best"]["step"],
                            most=_MOST_COLLAPSES,
                        )
                        fraction = main_fraction()
                        continue
                    if config.patience and state.extra["no_better"] >= config.patience:
                        logger.message(f"no better measurement in {config.patience}: stopping here")
                        break
                if "sample" in turn.due:
                    draw()
                if "save" in turn.due:
                    save()
        else:  # where patience ran out, this has just been measured
            measure()

        # --- the end ----------------------------------------------------------------------
        draw()
        film(run, runtime, ended=True)
        save()
        best = state.extra["best"]
        if best["step"] != state.step:
            step, shown = crown(run, runtime, state)
            logger.message(
                f"step {step:,} measured best, {judge.metric} {best[judge.metric]:.4f}: that is the model kept"
            )
        return TrainReport(
            out, state.step, state.seen, "images", meter.elapsed, dict(shown), (*warnings, *summary(alarms.history)),
            verdict(shown, metric=judge.metric),
        )  # fmt: skip


def _files(done: int, total: int) -> str:
    return f"reading images: {done:,} of {total:,}"

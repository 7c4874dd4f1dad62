"""Train a GAN: one loop over a folder of images."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.errors import TrainingStopped
from genkit.files import write_bytes
from genkit.image import graph
from genkit.image.canvas import encode, grid
from genkit.image.config import GANTrainConfig
from genkit.image.data import ImageReport, ImageStore, prepare
from genkit.image.engines.torch import draw
from genkit.image.game import Game
from genkit.image.models.dcgan import Generator, reestimate_batch_norm
from genkit.image.models.store import CONFIG, WEIGHTS, model_line, parameter_count
from genkit.image.noise import STATISTICS, batch_latents, seeded_latents
from genkit.runtime.manager import Runtime, memory_guard
from genkit.training.log import MetricLogger, TrainReport
from genkit.training.loop import draw_curves, open_logs, reading, restore
from genkit.training.meter import Cadence, Meter
from genkit.training.optim import ema_decay, set_lr, update_ema
from genkit.training.record import RECORD, check_resumable, run_record
from genkit.training.rundir import RunDir
from genkit.training.schedule import Budget, lr_scale
from genkit.training.state import TrainState
from genkit.training.stop import StopSignal

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset(
    {"budget", "steps", "images", "out", "compile", "tensorboard", "data_license", "on_bad_image"}
    | {"sample_interval", "save_interval"}
)
_OUT_OF_MEMORY = "use a smaller --batch-size, --ngf or --ndf"
_GRID = 64  # pictures on a sample sheet
_STATISTICS = 2048  # latents behind the batch-norm statistics
_LOG_INTERVAL = 10
_SMOOTHING = 0.98  # of the losses shown
_BEATEN = 0.02  # a discriminator loss below this teaches the generator nothing
_BEATEN_WARNING = (
    "the discriminator tells every fake from real, so the generator no longer learns; "
    "start anew with --d-norm spectral --loss hinge, or with a smaller --d-lr"
)


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

    Args:
        runtime: an entered `Runtime`.
        logger: besides the run's own `metrics.jsonl`; the caller closes it.
        resume: continue from the newest checkpoint of `config.out`; the result is
            the same, bit for bit, as that of a run that was never interrupted.
        force: start anew in a run directory that exists.
        started: `time.monotonic()` from which `config.budget` counts.

    Raises:
        UsageError: settings that contradict one another, or the run resumed.
        InputError: images or checkpoint refused.
        OutputError: the run directory cannot be written.
        TrainingStopped: a loss is not finite; the last checkpoint is kept.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    started = time.monotonic() if started is None else started
    budget = Budget.of(budget=config.budget, steps=config.steps, units=config.images, unit="images")
    out = Path(config.out)
    warnings: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(memory_guard(_OUT_OF_MEMORY))
        run = stack.enter_context(RunDir.resume(out) if resume else RunDir.create(out, force=force))
        expected = check_resumable(out, config, MAY_CHANGE, runtime.placement.precision) if resume else None

        # --- data and networks ------------------------------------------------------------
        store = prepare(config, run.data, on_progress=reading(logger, _files), expected=expected)
        warnings += store.report.warnings(config.batch_size)
        torch.manual_seed(config.seed)
        game = Game(config, runtime)
        average = copy.deepcopy(game.generator).requires_grad_(False)
        for line in (store.report.line(), model_line(game.generator, game.discriminator), *warnings):
            logger.message(line)
        state = TrainState(
            modules={"generator": game.generator, "discriminator": game.discriminator, "average": average},
            optimizers=game.optimizers,
            scaler=runtime.scaler,
        )
        if resume:
            restore(run, state, logger, "images")
        meter = Meter(budget, "images", started, before=state.elapsed, pauses=state.extra.get("pauses"))
        kept = open_logs(stack, run, after_step=state.step if resume else None, tensorboard=config.tensorboard)
        shown: dict[str, float] = dict(state.extra.get("metrics", {}))

        ready: dict[int, Generator] = {}  # by step: a sheet and a save share the statistics

        def finished() -> Generator:
            if state.step not in ready:
                ready.clear()
                ready[state.step] = sampler(average, config, runtime)
            return ready[state.step]

        def save() -> None:
            with meter.measured("save"):
                state.elapsed, state.extra["metrics"], state.extra["pauses"] = meter.elapsed, dict(shown), meter.pauses
                run.save_checkpoint(state)
                publish(run, finished(), store.report, config, runtime, state)
                draw_curves(run)

        def draw_sheet() -> None:
            with meter.measured("sample"):
                sheet = grid(draw(finished(), _fixed_latents(config), None, runtime))
                write_bytes(run.samples / f"step-{state.step:06d}.png", encode(sheet, "png"))

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)
        sample_cadence = Cadence(meter, config.sample_interval, fraction, "sample")
        save_cadence = Cadence(meter, config.save_interval, fraction, "save")

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            scale = lr_scale(config.schedule, fraction, warmup=0.0, cooldown=config.cooldown)
            set_lr(state.optimizers, scale)
            real, z = training_batch(config, store, state.step, runtime)  # (N, C, H, W), (N, nz)
            losses = game.step(real, z, state.step)
            if not all(math.isfinite(value) for value in losses.values()):
                raise TrainingStopped(
                    f"{', '.join(f'{k} {v:.3g}' for k, v in losses.items())} at step {state.step + 1}; "
                    f"the last checkpoint in {out} is kept",
                    f"lower --lr (now {config.lr:g}) and use --force, or add --d-norm spectral",
                )

            state.step, state.seen = state.step + 1, state.seen + config.batch_size
            update_ema(average, game.generator, ema_decay(config.ema_images, config.batch_size, state.seen))
            fraction = meter.fraction(state.step, state.seen)
            for name, value in losses.items():
                shown[name] = _SMOOTHING * shown.get(name, value) + (1 - _SMOOTHING) * value
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if outlook := meter.outlook(progress, epoch=store.report.count):
                logger.message(outlook)
            if state.step % _LOG_INTERVAL == 0:
                kept.metrics(
                    state.step,
                    losses
                    | {"lr_scale": scale, "images": state.seen, "images_per_second": progress.rate}
                    | {"seconds": meter.elapsed},
                )
                if shown["d_loss"] < _BEATEN and _BEATEN_WARNING not in warnings:
                    warnings.append(_BEATEN_WARNING)
                    logger.message(_BEATEN_WARNING)

            # once in a while: draw, save
            if stop.received is not None:
                save()
                resume_with = f"genkit train-gan --resume --out {quote(str(out))}"
                raise stop.error(f"at step {state.step} in {out}", resume_with)
            if fraction < 1:
                if sample_cadence.due(state.step, fraction):
                    draw_sheet()
                if save_cadence.due(state.step, fraction):
                    save()

        # --- the end ----------------------------------------------------------------------
        draw_sheet()
        save()
        return TrainReport(out, state.step, state.seen, "images", meter.elapsed, dict(shown), tuple(warnings))


def plan(config: GANTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_gan` would do, found by doing a little of it in a temporary folder.

    Returns:
        The data's counts, the networks' size, and, from three timed steps, the
        throughput and what the budget buys.
    """
    budget = Budget.of(budget=config.budget, steps=config.steps, units=config.images, unit="images")
    with tempfile.TemporaryDirectory(prefix="genkit-") as folder, memory_guard(_OUT_OF_MEMORY):
        store = prepare(config, Path(folder))
        game = Game(config, runtime)
        seconds = []
        for step in range(4):  # the first one warms up
            before = time.monotonic()
            game.step(*training_batch(config, store, step, runtime), step)
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3
    steps = budget.steps_to_take(config.batch_size, a_step)
    return {
        "data": store.report.line(),
        "model": model_line(game.generator, game.discriminator),
        "parameters": parameter_count(game.generator),
        "training_images": store.report.count,
        "unreadable_images": len(store.report.bad),
        "images_per_step": config.batch_size,
        "images_per_second": round(config.batch_size / a_step, 1),
        "steps": steps,
        "epochs": round(steps * config.batch_size / store.report.count, 2),
        "eta_seconds": round(budget.seconds or steps * a_step),
        "warnings": store.report.warnings(config.batch_size),
        "config": config.to_dict(),
    }


def training_batch(config: GANTrainConfig, store: ImageStore, step: int, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Real images (N, C, H, W) in [-1, 1] and latents (N, nz) of a step."""
    pixels = store.batch(batch_size=config.batch_size, seed=config.seed, step=step, flip=config.flip)
    z = torch.from_numpy(batch_latents(config.seed, step, config.batch_size, config.nz))
    return to_images(pixels, runtime), z.to(runtime.device)


def to_images(pixels: NDArray[np.uint8], runtime: Runtime) -> Tensor:
    """Pixels (N, H, W, C) to images (N, C, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(pixels).to(runtime.device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def sampler(average: Generator, config: GANTrainConfig, runtime: Runtime) -> Generator:
    """A copy of the averaged generator with batch-norm statistics of its own, in eval mode."""
    ready = copy.deepcopy(average)
    batches = (
        torch.from_numpy(batch_latents(config.seed, i, _GRID, config.nz, STATISTICS)).to(runtime.device)
        for i in range(_STATISTICS // _GRID)
    )
    reestimate_batch_norm(ready, batches)
    return ready


def publish(
    run: RunDir,
    finished: Generator,
    report: ImageReport,
    config: GANTrainConfig,
    runtime: Runtime,
    state: TrainState,
) -> None:
    """Put a generator into the run's root, as a directory that `genkit image` loads."""
    record = run_record(
        kind="image",
        config=config.to_dict(),
        data={"fingerprint": report.fingerprint, "sha256": report.sha256, "images": report.count}
        | {"unreadable": len(report.bad), "license": config.data_license},
        placement=runtime.placement,
        unit="images",
        seen=state.seen,
        steps=state.step,
        seconds=state.elapsed,
        metrics=state.extra.get("metrics"),
    )
    run.publish(tensors={WEIGHTS: finished.state_dict()}, json={CONFIG: finished.config.to_dict(), RECORD: record})
    graph.write(run.path)  # after the weights that it points into; the engine takes none of another header


def _fixed_latents(config: GANTrainConfig) -> NDArray[np.float32]:
    """The same pictures on every sample sheet: those of seeds 0, 1, 2, ..."""
    return seeded_latents(list(range(_GRID)), config.nz)


def _files(done: int, total: int) -> str:
    return f"reading images: {done:,} of {total:,}"

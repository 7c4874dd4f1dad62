"""Train a GAN: one loop over a folder of images."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkit.errors import TrainingStopped
from genkit.files import write_bytes
from genkit.image.canvas import encode, grid
from genkit.image.config import DCGANConfig, GANTrainConfig
from genkit.image.data import ImageReport, prepare
from genkit.image.engines.torch import draw
from genkit.image.losses import LOSSES, r1_penalty
from genkit.image.models.dcgan import Discriminator, Generator, reestimate_batch_norm
from genkit.image.models.store import CONFIG, WEIGHTS, model_line, parameter_count
from genkit.image.noise import STATISTICS, batch_latents, seeded_latents
from genkit.runtime.manager import Runtime, memory_guard
from genkit.training.log import JsonlLogger, Loggers, MetricLogger, TensorBoardLogger, TrainReport
from genkit.training.meter import Meter
from genkit.training.optim import ema_decay, set_lr, step_optimizers, update_ema
from genkit.training.record import RECORD, check_unchanged, read_record, run_record
from genkit.training.rundir import RunDir
from genkit.training.schedule import Budget, due, lr_scale
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
        if resume:
            check_unchanged(read_record(out)["config"], config.to_dict(), MAY_CHANGE)

        # --- data and networks ------------------------------------------------------------
        store = prepare(config, run.data, resume=resume, on_progress=_reading(logger))
        warnings += store.report.warnings(config.batch_size)
        torch.manual_seed(config.seed)
        generator, discriminator = networks(config, runtime)
        average = copy.deepcopy(generator).requires_grad_(False)
        for line in (store.report.line(), model_line(generator, discriminator), *warnings):
            logger.message(line)

        # --- optimizers and state ---------------------------------------------------------
        adam_g = adam(generator, config.lr, config)
        adam_d = adam(discriminator, config.d_lr or config.lr, config)
        state = TrainState(
            modules={"generator": generator, "discriminator": discriminator, "average": average},
            optimizers={"adam_generator": adam_g, "adam_discriminator": adam_d},
            generators={},
            scaler=runtime.scaler,
        )
        if resume:
            checkpoint = run.load_checkpoint()
            state.restore(checkpoint)
            for name, reason in checkpoint.skipped:
                logger.message(f"checkpoint {name} skipped: {reason}")
            logger.message(f"resuming at step {state.step}, {state.seen:,} images")
        loss = LOSSES[config.loss]
        generate = runtime.compile(generator, config.compile)
        judge = runtime.compile(discriminator, config.compile)
        meter = Meter(budget, "images", started, before=state.elapsed)
        metrics = JsonlLogger(run.metrics_path, after_step=state.step if resume else None)
        stack.callback(metrics.close)
        log = Loggers(metrics)
        if config.tensorboard:
            tensorboard = TensorBoardLogger(out / "tensorboard")
            stack.callback(tensorboard.close)
            log = Loggers(metrics, tensorboard)
        shown: dict[str, float] = dict(state.extra.get("losses", {}))

        ready: dict[int, Generator] = {}  # by step: a sheet and a save share the statistics

        def finished() -> Generator:
            if state.step not in ready:
                ready.clear()
                ready[state.step] = sampler(average, config, runtime)
            return ready[state.step]

        def save() -> None:
            with meter.measured("save"):
                state.elapsed, state.extra["losses"] = meter.elapsed, dict(shown)
                run.save_checkpoint(state)
                publish(run, finished(), store.report, config, runtime, state)

        def sample() -> None:
            with meter.measured("sample"):
                sheet = grid(draw(finished(), _fixed_latents(config), runtime))
                write_bytes(run.samples / f"step-{state.step:06d}.png", encode(sheet, "png"))

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1:
            scale = lr_scale(config.schedule, fraction, warmup=0.0, cooldown=config.cooldown)
            set_lr(state.optimizers, scale)
            real = to_images(
                store.batch(batch_size=config.batch_size, seed=config.seed, step=state.step, flip=config.flip), runtime
            )  # (N, C, H, W)
            z = torch.from_numpy(batch_latents(config.seed, state.step, config.batch_size, config.nz))  # (N, nz)

            # the discriminator learns to tell real images from fake ones
            discriminator.requires_grad_(True)
            with runtime.autocast():
                fake = generate(z.to(runtime.device))
                real_logits, fake_logits = judge(real), judge(fake.detach())
            d_loss = loss.discriminator(real_logits.float(), fake_logits.float())
            penalty = torch.zeros((), device=runtime.device)
            if config.regularizer == "r1" and state.step % config.reg_interval == 0:
                penalty = config.gamma * config.reg_interval * r1_penalty(discriminator, real)
            update(adam_d, discriminator, d_loss + penalty, runtime)

            # the generator learns to have the same fakes taken for real
            discriminator.requires_grad_(False)
            with runtime.autocast():
                judged = judge(fake)
            g_loss = loss.generator(real_logits.detach().float(), judged.float())
            update(adam_g, generator, g_loss, runtime)

            before, state.step, state.seen = fraction, state.step + 1, state.seen + config.batch_size
            update_ema(average, generator, ema_decay(config.ema_images, config.batch_size, state.seen))
            fraction = meter.fraction(state.step, state.seen)
            numbers = torch.stack([d_loss, g_loss, penalty]).tolist()
            losses = dict(zip(("d_loss", "g_loss", "penalty"), numbers, strict=True))
            if not all(math.isfinite(value) for value in losses.values()):
                raise TrainingStopped(
                    f"{', '.join(f'{k} {v:.3g}' for k, v in losses.items())} at step {state.step}; "
                    f"the last checkpoint in {out} is kept",
                    f"lower --lr (now {config.lr:g}) and use --force, or add --d-norm spectral",
                )
            for name, value in losses.items():
                shown[name] = _SMOOTHING * shown.get(name, value) + (1 - _SMOOTHING) * value
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if state.step % _LOG_INTERVAL == 0:
                log.metrics(
                    state.step,
                    losses
                    | {"lr_scale": scale, "images": state.seen, "images_per_second": progress.rate}
                    | {"seconds": meter.elapsed},
                )
                if shown["d_loss"] < _BEATEN and _BEATEN_WARNING not in warnings:
                    warnings.append(_BEATEN_WARNING)
                    logger.message(_BEATEN_WARNING)

            # once in a while: draw, save
            if fraction < 1 and stop.received is None:
                times = budget.intervals() if meter.rested() else 0
                if due(state.step, config.sample_interval, before, fraction, times):
                    sample()
                if due(state.step, config.save_interval, before, fraction, times):
                    save()
            if stop.received is not None:
                save()
                raise stop.error(f"at step {state.step} in {out}", f"genkit train-gan --resume --out {out}")

        # --- the end ----------------------------------------------------------------------
        state.extra["metrics"] = dict(shown)
        sample()
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
        generator, discriminator = networks(config, runtime)
        loss = LOSSES[config.loss]
        seconds = []
        for step in range(4):
            before = time.monotonic()
            real = to_images(store.batch(batch_size=config.batch_size, seed=0, step=step, flip=False), runtime)
            z = torch.from_numpy(batch_latents(0, step, config.batch_size, config.nz)).to(runtime.device)
            with runtime.autocast():
                fake = generator(z)
                d_loss = loss.discriminator(discriminator(real).float(), discriminator(fake.detach()).float())
            d_loss.backward()  # type: ignore[no-untyped-call]
            discriminator.requires_grad_(False)
            with runtime.autocast():
                logits = discriminator(fake).float()
            loss.generator(logits, logits).backward()  # type: ignore[no-untyped-call]
            discriminator.requires_grad_(True)
            runtime.synchronize()
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3
    steps = (
        config.steps
        or (config.images and math.ceil(config.images / config.batch_size))
        or max(1, int((budget.seconds or 0.0) / a_step))
    )
    return {
        "data": store.report.line(),
        "model": model_line(generator, discriminator),
        "parameters": parameter_count(generator),
        "training_images": store.report.count,
        "unreadable_images": len(store.report.bad),
        "images_per_step": config.batch_size,
        "images_per_second": round(config.batch_size / a_step, 1),
        "steps": steps,
        "epochs": round(steps * config.batch_size / store.report.count, 2),
        "eta_seconds": round(budget.seconds if budget.seconds else steps * a_step),
        "warnings": store.report.warnings(config.batch_size),
        "config": config.to_dict(),
    }


def networks(config: GANTrainConfig, runtime: Runtime) -> tuple[Generator, Discriminator]:
    """The pair that the settings ask for, freshly initialised, on the device, channels last in memory."""
    shape = DCGANConfig(
        arch=config.arch,
        size=config.size,
        channels=config.channels,
        nz=config.nz,
        ngf=config.ngf,
        ndf=config.ndf,
        d_norm=config.d_norm,
    )
    nets = Generator(shape), Discriminator(shape)
    for net in nets:
        net.to(runtime.device)
        net.to(memory_format=torch.channels_last)
    return nets


def adam(model: nn.Module, lr: float, config: GANTrainConfig) -> torch.optim.Adam:
    """Adam that remembers its `peak_lr` for `set_lr`."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr, (config.beta1, config.beta2), fused=fused)
    for group in optimizer.param_groups:
        group["peak_lr"] = lr
    return optimizer


def update(optimizer: torch.optim.Adam, model: nn.Module, loss: Tensor, runtime: Runtime) -> None:
    """One step down `loss`."""
    (runtime.scaler.scale(loss) if runtime.scaler else loss).backward()  # type: ignore[no-untyped-call]
    step_optimizers({"adam": optimizer}, model.parameters(), scaler=runtime.scaler, clip=0.0)


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


def _fixed_latents(config: GANTrainConfig) -> NDArray[np.float32]:
    """The same pictures on every sample sheet: those of seeds 0, 1, 2, ..."""
    return seeded_latents(list(range(_GRID)), config.nz)


def _reading(logger: MetricLogger) -> Callable[[int, int], None]:
    """Report decoding, once in ten seconds."""
    said = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 10:
            said = time.monotonic()
            logger.message(f"reading images: {done:,} of {total:,}")

    return on_progress

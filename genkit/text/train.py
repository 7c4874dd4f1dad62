"""Train a GPT: one loop, from scratch or from a model."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from genkit import library
from genkit.errors import TrainingStopped
from genkit.files import write_bytes
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.config import GenerationConfig, GPTConfig, TextTrainConfig
from genkit.text.data import Corpus, batch, prepare
from genkit.text.engines import TokenRequest
from genkit.text.engines.torch import TorchTextEngine
from genkit.text.evaluate import evaluate
from genkit.text.models.gpt import GPT
from genkit.text.models.store import CONFIG, GENERATION, WEIGHTS, load_model, model_files
from genkit.text.shape import model_shape, shape_line
from genkit.text.tokenizer import Tokenizer
from genkit.training.log import JsonlLogger, Loggers, MetricLogger, TensorBoardLogger, TrainReport
from genkit.training.meter import Meter
from genkit.training.optim import set_lr, step_optimizers, text_optimizers
from genkit.training.record import RECORD, check_unchanged, read_record, run_record
from genkit.training.rundir import RunDir
from genkit.training.schedule import Budget, due, lr_scale
from genkit.training.state import TrainState
from genkit.training.stop import StopSignal

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset(
    {"budget", "steps", "tokens", "out", "compile", "tensorboard", "data_license", "eval_tokens"}
    | {"eval_interval", "sample_interval", "save_interval", "sample_prompt"}
)
_OUT_OF_MEMORY = "use a smaller --batch-size, a larger --accumulate or a smaller --preset"
_SAMPLES, _SAMPLE_TOKENS = 2, 100
_LOG_INTERVAL = 10


def train_text(
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
        runtime: an entered `Runtime`.
        logger: besides the run's own `metrics.jsonl`; the caller closes it.
        resume: continue from the newest checkpoint of `config.out`; the result is
            the same, bit for bit, as that of a run that was never interrupted.
        force: start anew in a run directory that exists.
        started: `time.monotonic()` from which `config.budget` counts.

    Raises:
        UsageError: settings that contradict one another, or the run resumed.
        InputError: data, model or checkpoint refused.
        OutputError: the run directory cannot be written.
        TrainingStopped: the loss is not finite; the last checkpoint is kept.
        Interrupted, Terminated: a signal came; the state is saved.
    """
    started = time.monotonic() if started is None else started
    budget = Budget.of(budget=config.budget, steps=config.steps, units=config.tokens, unit="tokens")
    out = Path(config.out)
    with ExitStack() as stack:
        stack.enter_context(memory_guard(_OUT_OF_MEMORY))
        run = stack.enter_context(RunDir.resume(out) if resume else RunDir.create(out, force=force))
        if resume:
            check_unchanged(read_record(out)["config"], config.to_dict(), MAY_CHANGE)

        # --- data and model ---------------------------------------------------------------
        base, tokenizer = starting_point(config)
        corpus = prepare(config, run.data, tokenizer, _reading(logger))
        torch.manual_seed(config.seed)
        model = base or GPT(corpus_shape(config, corpus, runtime), config.dropout)
        model.to(runtime.device).train()
        block_size = min(config.block_size or model.config.block_size, model.config.block_size)
        # a text too short for one block is refused before anything is saved
        batch(corpus.train, block_size=block_size, batch_size=1, seed=config.seed, step=0)
        logger.message(corpus_line(corpus))
        logger.message(shape_line(model.config, model.num_parameters()))

        # --- optimizers and state ---------------------------------------------------------
        optimizers = text_optimizers(
            model,
            optimizer=config.optimizer,
            lr=config.lr,
            muon_lr=config.muon_lr,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
            # fp16 has too little range for the iteration
            dtype=torch.float32 if runtime.dtype is torch.float32 else torch.bfloat16,
        )
        state = TrainState(modules={"model": model}, optimizers=dict(optimizers), generators={}, scaler=runtime.scaler)
        if resume:
            checkpoint = run.load_checkpoint()
            state.restore(checkpoint)
            for name, reason in checkpoint.skipped:
                logger.message(f"checkpoint {name} skipped: {reason}")
            logger.message(f"resuming at step {state.step}, {state.seen:,} tokens")
        compute_loss = runtime.compile(model.loss, config.compile)
        meter = Meter(budget, "tokens", started, before=state.elapsed)
        metrics = JsonlLogger(run.metrics_path, after_step=state.step if resume else None)
        stack.callback(metrics.close)
        log = Loggers(metrics, logger)
        if config.tensorboard:
            tensorboard = TensorBoardLogger(out / "tensorboard")
            stack.callback(tensorboard.close)
            log = Loggers(metrics, tensorboard, logger)

        def save() -> None:
            with meter.measured("save"):
                state.elapsed = meter.elapsed
                run.save_checkpoint(state)
                publish(run, model, corpus, config, runtime, state)

        def measure() -> dict[str, float]:
            if corpus.val is None:
                return {}
            with meter.measured("eval"):
                found = evaluate(
                    model,
                    corpus.val,
                    runtime,
                    bytes_per_token=corpus.bytes_val / corpus.tokens_val,
                    max_tokens=config.eval_tokens,
                    batch_size=max(1, config.batch_size // config.accumulate),
                )
            log.metrics(state.step, found)
            return found

        def draw() -> None:
            with meter.measured("sample"):
                sample(run, model, corpus.tokenizer, config, runtime, state.step, logger)

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)
        shown: dict[str, float] = {}

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1:
            # one optimiser step over `accumulate` micro-batches
            scale = lr_scale(
                config.schedule, fraction, warmup=config.warmup, cooldown=config.cooldown, floor=config.min_lr
            )
            set_lr(optimizers, scale)
            x, y = batch(
                corpus.train, block_size=block_size, batch_size=config.batch_size, seed=config.seed, step=state.step
            )  # (B, T) each
            loss = torch.zeros((), device=runtime.device)
            for xs, ys in zip(x.chunk(config.accumulate), y.chunk(config.accumulate), strict=True):
                with runtime.autocast():
                    part = compute_loss(xs.to(runtime.device), ys.to(runtime.device)) / config.accumulate
                (runtime.scaler.scale(part) if runtime.scaler else part).backward()  # type: ignore[no-untyped-call]
                loss += part.detach()
            step_optimizers(optimizers, model.parameters(), scaler=runtime.scaler, clip=config.grad_clip)

            before, state.step, state.seen = fraction, state.step + 1, state.seen + x.numel()
            fraction = meter.fraction(state.step, state.seen)
            if not math.isfinite(shown_loss := loss.item()):
                raise TrainingStopped(
                    f"the loss is {shown_loss} at step {state.step}; the last checkpoint in {out} is kept",
                    f"lower --lr (now {config.lr:g}) and use --force, or look at the data",
                )
            shown |= {"loss": shown_loss}
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
            if state.step % _LOG_INTERVAL == 0:
                metrics.metrics(
                    state.step,
                    {"loss": shown_loss, "lr_scale": scale, "tokens": state.seen, "tokens_per_second": progress.rate}
                    | {"seconds": meter.elapsed},
                )

            # once in a while: validate, sample, save
            if fraction < 1 and stop.received is None:
                times = budget.intervals() if meter.rested() else 0
                if due(state.step, config.eval_interval, before, fraction, times):
                    shown |= measure()
                if due(state.step, config.sample_interval, before, fraction, times):
                    draw()
                if due(state.step, config.save_interval, before, fraction, times):
                    save()
            if stop.received is not None:
                save()
                raise stop.error(f"at step {state.step} in {out}", f"genkit train-text --resume --out {out}")

        # --- the end ----------------------------------------------------------------------
        final = measure()
        state.extra["metrics"] = {"loss": shown.get("loss", math.nan)} | final
        draw()
        save()
        return TrainReport(out, state.step, state.seen, "tokens", meter.elapsed, state.extra["metrics"])


def plan(config: TextTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_text` would do, found by doing a little of it in a temporary folder.

    Returns:
        The data's counts, the model's shape, and, from three timed steps, the
        throughput and what the budget buys.
    """
    budget = Budget.of(budget=config.budget, steps=config.steps, units=config.tokens, unit="tokens")
    base, tokenizer = starting_point(config)
    with tempfile.TemporaryDirectory(prefix="genkit-") as folder, memory_guard(_OUT_OF_MEMORY):
        corpus = prepare(config, Path(folder), tokenizer, lambda done, total: None)
        model = base or GPT(corpus_shape(config, corpus, runtime), config.dropout)
        model.to(runtime.device).train()
        block_size = min(config.block_size or model.config.block_size, model.config.block_size)
        rows = config.batch_size // config.accumulate
        seconds = []
        for step in range(4):
            before = time.monotonic()
            x, y = batch(corpus.train, block_size=block_size, batch_size=rows, seed=config.seed, step=step)
            with runtime.autocast():
                loss = model.loss(x.to(runtime.device), y.to(runtime.device))
            loss.backward()  # type: ignore[no-untyped-call]
            runtime.synchronize()
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3 * config.accumulate
    tokens_a_step = config.batch_size * block_size
    steps = (
        config.steps
        or (config.tokens and math.ceil(config.tokens / tokens_a_step))
        or max(1, int((budget.seconds or 0.0) / a_step))
    )
    return {
        "data": corpus_line(corpus),
        "model": shape_line(model.config, model.num_parameters()),
        "parameters": model.num_parameters(),
        "training_tokens": len(corpus.train),
        "validation_tokens": corpus.tokens_val,
        "tokens_per_step": tokens_a_step,
        "tokens_per_second": round(tokens_a_step / a_step),
        "steps": steps,
        "epochs": round(steps * tokens_a_step / len(corpus.train), 2),
        "eta_seconds": round(budget.seconds if budget.seconds else steps * a_step),
        "config": config.to_dict(),
    }


def starting_point(config: TextTrainConfig) -> tuple[GPT | None, Tokenizer | None]:
    """The model and tokenizer of `--init-from`, or neither."""
    if config.init_from is None:
        return None, None
    folder = library.find(config.init_from)
    return load_model(folder, dropout=config.dropout), Tokenizer.load(folder)


def corpus_shape(config: TextTrainConfig, corpus: Corpus, runtime: Runtime) -> GPTConfig:
    """The model for this corpus on this machine."""
    return model_shape(
        config,
        vocab_size=corpus.tokenizer.vocab_size,
        eos_id=corpus.tokenizer.eos_id,
        tokens=len(corpus.train),
        device=runtime.placement.device,
    )


def corpus_line(corpus: Corpus) -> str:
    """`3,636 documents, 37.0 MB, 9,402,113 tokens (3.9 bytes each), vocabulary 4,096`"""
    tokens = corpus.tokens_train + corpus.tokens_val
    return (
        f"{corpus.documents:,} documents, {corpus.bytes / 1e6:.1f} MB, {tokens:,} tokens "
        f"({corpus.bytes / tokens:.2f} bytes each), {corpus.tokens_val:,} of them for validation, "
        f"vocabulary {corpus.tokenizer.vocab_size:,}"
    )


def sample(
    run: RunDir,
    model: GPT,
    tokenizer: Tokenizer,
    config: TextTrainConfig,
    runtime: Runtime,
    step: int,
    logger: MetricLogger,
) -> None:
    """Draw a few texts with fixed seeds, show the longest and keep all in `samples/`."""
    knobs = GenerationConfig(max_new_tokens=_SAMPLE_TOKENS)
    prompt = tokenizer.encode(config.sample_prompt) or [tokenizer.eos_id]
    requests = [TokenRequest(prompt, knobs, seed=i) for i in range(_SAMPLES)]
    ids: list[list[int]] = [[] for _ in requests]
    model.eval()
    for event in TorchTextEngine(model, runtime).generate(requests):
        ids[event.index].append(event.token)
    model.train()
    texts = [config.sample_prompt + tokenizer.decode(row) for row in ids]
    write_bytes(run.samples / f"step-{step:06d}.txt", ("\n---\n".join(texts) + "\n").encode())
    logger.message(f"sample at step {step}: {max(texts, key=len)}")


def publish(
    run: RunDir, model: GPT, corpus: Corpus, config: TextTrainConfig, runtime: Runtime, state: TrainState
) -> None:
    """Put the current model into the run's root, as a directory that any tool can load."""
    shape, generation, tensors = model_files(model, {})
    corpus.tokenizer.save(run.path)
    record = run_record(
        kind="text",
        config=config.to_dict(),
        data={"fingerprint": corpus.fingerprint, "documents": corpus.documents, "bytes": corpus.bytes}
        | {"tokens": corpus.tokens_train + corpus.tokens_val, "license": config.data_license},
        placement=runtime.placement,
        unit="tokens",
        seen=state.seen,
        steps=state.step,
        seconds=state.elapsed,
        metrics=state.extra.get("metrics"),
    )
    run.publish(tensors={WEIGHTS: tensors}, json={CONFIG: shape, GENERATION: generation, RECORD: record})


def _reading(logger: MetricLogger) -> Callable[[int, int], None]:
    """Report reading and tokenizing, once in ten seconds."""
    said = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 10:
            said = time.monotonic()
            logger.message(f"reading data: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    return on_progress

"""Train a GPT: one loop, from scratch or from a model."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from genkit import library
from genkit.config import flag_name
from genkit.errors import InputError, TrainingStopped, UsageError
from genkit.files import write_bytes
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.config import GenerationConfig, GPTConfig, TextTrainConfig
from genkit.text.data import Corpus, batch, prepare
from genkit.text.engines import TokenRequest
from genkit.text.engines.torch import TorchTextEngine
from genkit.text.evaluate import evaluate
from genkit.text.models.gpt import GPT
from genkit.text.models.store import CONFIG, GENERATION, WEIGHTS, check_usable, load_model, model_files
from genkit.text.shape import model_shape, shape_line
from genkit.text.tokenizer import Tokenizer
from genkit.training.log import Loggers, MetricLogger, TrainReport
from genkit.training.loop import open_logs, reading, restore
from genkit.training.meter import Cadence, Meter
from genkit.training.optim import clip_gradients, set_lr, step_optimizers, text_optimizers
from genkit.training.record import RECORD, check_resumable, run_record
from genkit.training.rundir import RunDir
from genkit.training.schedule import Budget, lr_scale
from genkit.training.state import TrainState
from genkit.training.stop import StopSignal

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset(
    {"budget", "steps", "tokens", "out", "compile", "tensorboard", "data_license", "eval_tokens"}
    | {"eval_interval", "sample_interval", "save_interval", "sample_prompt"}
)
# what --init-from decides
_BROUGHT_ALONG = frozenset(
    {"arch", "preset", "n_layer", "n_embd", "n_head", "n_kv_head", "tie_embeddings", "tokenizer", "vocab_size"}
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
        expected = check_resumable(out, config, MAY_CHANGE, runtime.placement.precision) if resume else None

        # --- data and model ---------------------------------------------------------------
        base, tokenizer = starting_point(config, resumed=out if resume else None)
        corpus = prepare(config, run.data, tokenizer, reading(logger, _megabytes), expected=expected)
        torch.manual_seed(config.seed)
        model = base or GPT(corpus_shape(config, corpus, runtime), config.dropout)
        model.to(runtime.device).train()
        check_fit(config, model, corpus)
        logger.message(corpus_line(corpus))
        logger.message(shape_line(model.config, model.num_parameters()))

        # --- optimizers and state ---------------------------------------------------------
        optimizers = optimizers_of(model, config, runtime)
        state = TrainState(modules={"model": model}, optimizers=dict(optimizers), scaler=runtime.scaler)
        if resume:
            restore(run, state, logger, "tokens")
        compute_loss = runtime.compile(model.loss, config.compile)
        meter = Meter(budget, "tokens", started, before=state.elapsed, pauses=state.extra.get("pauses"))
        kept = open_logs(stack, run, after_step=state.step if resume else None, tensorboard=config.tensorboard)
        shown: dict[str, float] = dict(state.extra.get("metrics", {}))

        def save() -> None:
            with meter.measured("save"):
                state.elapsed, state.extra["metrics"], state.extra["pauses"] = meter.elapsed, dict(shown), meter.pauses
                run.save_checkpoint(state)
                publish(run, model, corpus, config, runtime, state)

        def measure() -> None:
            if corpus.val is None:
                return
            with meter.measured("eval"):
                found = evaluate(
                    model,
                    corpus.val,
                    runtime,
                    bytes_per_token=corpus.bytes_val / corpus.tokens_val,
                    max_tokens=config.eval_tokens,
                    batch_size=config.batch_size // config.accumulate,
                )
            shown.update(found)
            Loggers(kept, logger).metrics(state.step, found)

        def draw() -> None:
            with meter.measured("sample"):
                sample(run, model, corpus.tokenizer, config, runtime, state.step, logger)

        if not resume:
            save()  # a full disk shows now, and a kill at any time leaves something to resume
        stop = stack.enter_context(StopSignal())
        fraction = meter.fraction(state.step, state.seen)
        eval_cadence = Cadence(meter, config.eval_interval, fraction)
        sample_cadence = Cadence(meter, config.sample_interval, fraction)
        save_cadence = Cadence(meter, config.save_interval, fraction)

        # --- the loop ---------------------------------------------------------------------
        while fraction < 1 or state.step == 0:
            scale = lr_scale(
                config.schedule, fraction, warmup=config.warmup, cooldown=config.cooldown, floor=config.min_lr
            )
            set_lr(optimizers, scale)
            x, y = training_batch(config, model, corpus, state.step)  # (B, T) each
            loss, norm = train_step(model, compute_loss, optimizers, x, y, config, runtime)
            if not math.isfinite(loss) or (runtime.scaler is None and not math.isfinite(norm)):
                raise TrainingStopped(
                    f"the loss is {loss:.4g} and the gradient {norm:.4g} at step {state.step + 1}; "
                    f"the last checkpoint in {out} is kept",
                    f"lower --lr (now {config.lr:g}) and use --force, or look at the data",
                )

            state.step, state.seen = state.step + 1, state.seen + x.numel()
            fraction = meter.fraction(state.step, state.seen)
            shown["loss"] = loss
            progress = meter.progress(state.step, state.seen, fraction, shown)
            logger.progress(progress)
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
                if eval_cadence.due(state.step, fraction):
                    measure()
                if sample_cadence.due(state.step, fraction):
                    draw()
                if save_cadence.due(state.step, fraction):
                    save()

        # --- the end ----------------------------------------------------------------------
        measure()
        draw()
        save()
        return TrainReport(out, state.step, state.seen, "tokens", meter.elapsed, dict(shown))


def plan(config: TextTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_text` would do, found by doing a little of it in a temporary folder.

    Returns:
        The data's counts, the model's shape, and, from three timed steps, the
        throughput and what the budget buys.
    """
    budget = Budget.of(budget=config.budget, steps=config.steps, units=config.tokens, unit="tokens")
    with tempfile.TemporaryDirectory(prefix="genkit-") as folder, memory_guard(_OUT_OF_MEMORY):
        base, tokenizer = starting_point(config)
        corpus = prepare(config, Path(folder), tokenizer)
        model = base or GPT(corpus_shape(config, corpus, runtime), config.dropout)
        model.to(runtime.device).train()
        check_fit(config, model, corpus)
        optimizers = optimizers_of(model, config, runtime)
        seconds = []
        for step in range(4):  # the first one warms up
            before = time.monotonic()
            x, y = training_batch(config, model, corpus, step)
            train_step(model, model.loss, optimizers, x, y, config, runtime)
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3
    steps = budget.steps_to_take(x.numel(), a_step)
    return {
        "data": corpus_line(corpus),
        "model": shape_line(model.config, model.num_parameters()),
        "parameters": model.num_parameters(),
        "training_tokens": len(corpus.train),
        "validation_tokens": corpus.tokens_val,
        "tokens_per_step": x.numel(),
        "tokens_per_second": round(x.numel() / a_step),
        "steps": steps,
        "epochs": round(steps * x.numel() / len(corpus.train), 2),
        "eta_seconds": round(budget.seconds or steps * a_step),
        "config": config.to_dict(),
    }


def train_step(
    model: GPT,
    compute_loss: Callable[[Tensor, Tensor], Tensor],
    optimizers: Mapping[str, Optimizer],
    x: Tensor,
    y: Tensor,
    config: TextTrainConfig,
    runtime: Runtime,
) -> tuple[float, float]:
    """One optimiser step over `config.accumulate` micro-batches of x, y (B, T).

    Returns:
        mean loss in nats a token, and the gradient's norm before clipping.
    """
    loss = torch.zeros((), device=runtime.device)
    for xs, ys in zip(x.chunk(config.accumulate), y.chunk(config.accumulate), strict=True):
        with runtime.autocast():
            part = compute_loss(xs.to(runtime.device), ys.to(runtime.device)) / config.accumulate
        (runtime.scaler.scale(part) if runtime.scaler else part).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    norm = clip_gradients(optimizers, model.parameters(), scaler=runtime.scaler, largest=config.grad_clip)
    step_optimizers(optimizers, scaler=runtime.scaler)
    if runtime.scaler is not None:
        runtime.scaler.update()
    return loss.item(), norm.item()


def training_batch(config: TextTrainConfig, model: GPT, corpus: Corpus, step: int) -> tuple[Tensor, Tensor]:
    """x, y (B, T) of a step."""
    block_size = config.block_size or model.config.block_size
    return batch(corpus.train, block_size=block_size, batch_size=config.batch_size, seed=config.seed, step=step)


def optimizers_of(model: GPT, config: TextTrainConfig, runtime: Runtime) -> dict[str, Optimizer]:
    """The optimizers that the settings ask for."""
    return text_optimizers(
        model,
        optimizer=config.optimizer,
        lr=config.lr,
        muon_lr=config.muon_lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        # fp16 has too little range for the iteration
        dtype=torch.float32 if runtime.dtype is torch.float32 else torch.bfloat16,
    )


def starting_point(config: TextTrainConfig, *, resumed: Path | None = None) -> tuple[GPT | None, Tokenizer | None]:
    """The model and tokenizer of `--init-from`, or neither; a resumed run has both in its own folder.

    Raises:
        UsageError: settings of a model or tokenizer that the given one brings along.
        InputError: no such model.
    """
    if config.init_from is None:
        return None, None
    for field in dataclasses.fields(config):
        if field.name in _BROUGHT_ALONG and getattr(config, field.name) != field.default:
            raise UsageError(
                f"{flag_name(field)} does not go with --init-from",
                f"{config.init_from} brings its own; leave one of them out",
            )
    folder = resumed or library.find(config.init_from)
    model, tokenizer = load_model(folder, dropout=config.dropout), Tokenizer.load(folder)
    check_usable(folder, model, tokenizer)
    return model, tokenizer


def check_fit(config: TextTrainConfig, model: GPT, corpus: Corpus) -> None:
    """Refuse, before anything is saved, what would fail later.

    Raises:
        UsageError: a block longer than the model's context.
        InputError: a text shorter than a block, or a sample prompt that fills the context.
    """
    context = model.config.block_size
    if (config.block_size or 0) > context:
        raise UsageError(f"--block-size {config.block_size} is more than the model's context", f"use {context} or less")
    batch(corpus.train, block_size=config.block_size or context, batch_size=1, seed=config.seed, step=0)
    if (length := len(corpus.tokenizer.encode(config.sample_prompt))) >= context:
        raise InputError(f"--sample-prompt has {length} tokens, the model's context {context}", "shorten it")


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


def _megabytes(done: int, total: int) -> str:
    return f"reading data: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"

"""Train an encoder-decoder on pairs (Sutskever et al. 2014, Raffel et al. 2020)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.recipe import budget_of
from genkit.text.seq2seq.batches import Batches, units
from genkit.text.seq2seq.data import PairSet, prepare
from genkit.text.seq2seq.evaluate import evaluate
from genkit.text.seq2seq.model import Seq2Seq
from genkit.text.seq2seq.publish import publish, sample
from genkit.text.seq2seq.start import as_begun, bounded, optimizers_of, settled, starting_point
from genkit.text.supervised import learn
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.log import MetricLogger, TrainReport
from genkit.training.loop import reading
from genkit.training.record import check_resumable, read_record
from genkit.training.rundir import RunDir
from genkit.training.schedule import lr_scale
from genkit.training.state import TrainState

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset({
    "budget", "steps", "tokens", "max_epochs", "patience", "out", "data_license", "tensorboard",
    "eval_interval", "eval_tokens", "sample_interval", "sample_prompt", "save_interval",
})  # fmt: skip
OUT_OF_MEMORY = "use a smaller --batch-size, a larger --accumulate or a smaller --max-source-tokens"


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

        return learn(
            _Pairs(config, runtime, logger, model, pairs),
            config, run, runtime, logger,
            origin=start.origin,
            intervals={"eval": config.eval_interval, "sample": config.sample_interval, "save": config.save_interval},
            parts=config.accumulate,
            budget=budget_of(config, pairs.tokens_per_epoch),
            started=started,
            command="genkit train-text",
            resume=resume,
            warnings=warnings,
        )  # fmt: skip


class _Pairs:
    """An encoder-decoder, and pairs of texts that it learns."""

    unit = "tokens"

    def __init__(
        self, config: TextTrainConfig, runtime: Runtime, logger: MetricLogger, model: Seq2Seq, pairs: PairSet
    ) -> None:
        self._config, self._runtime, self._logger, self._pairs = config, runtime, logger, pairs
        self.model, self.optimizers = model, optimizers_of(model, config)
        self.batch = Batches(pairs, batch_size=config.batch_size, seed=config.seed)  # (B, S), (B, T)
        self.per_epoch = pairs.tokens_per_epoch

    def lr_scale(self, fraction: float) -> float:
        config = self._config
        return lr_scale(config.schedule, fraction, warmup=config.warmup, cooldown=config.decay, floor=config.min_lr)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        mean: Tensor = self.model(x, y)
        return mean

    def count(self, x: Tensor, y: Tensor) -> int:
        return units(x, y)

    def validate(self, parts: int) -> dict[str, float]:
        if not len(self._pairs.val):
            return {}
        config = self._config
        most = max(1, config.batch_size // parts)
        return evaluate(self.model, self._pairs, self._runtime, max_tokens=config.eval_tokens, batch_size=most)

    def is_better(self, found: Mapping[str, float], best: Mapping[str, float]) -> bool:
        return found["val_loss"] < best["val_loss"]

    def sample(self, run: RunDir, step: int) -> dict[str, float]:
        return sample(run, self.model, self._pairs, self._config, self._runtime, step, self._logger)

    def publish(self, run: RunDir, state: TrainState, into: str = "") -> None:
        publish(run, self.model, self._pairs, self._config, self._runtime, state, into=into)

    def verdict(self, shown: Mapping[str, float]) -> tuple[str, ...]:
        return ()


def _read(pairs: int, paths: int) -> str:
    return f"reading data: {pairs:,} pairs so far"

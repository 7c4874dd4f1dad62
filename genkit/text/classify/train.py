"""Fine-tune a language model into a classifier (Devlin et al. 2019, Radford et al. 2018)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from genkit.errors import UsageError
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.data import LabelledSet, Rows, encoded, numbers, prepare
from genkit.text.classify.measures import measure
from genkit.text.classify.model import Classifier
from genkit.text.classify.predict import logits_of
from genkit.text.classify.publish import publish
from genkit.text.classify.start import as_begun, budget_of, optimizer_of, settle, starting_point
from genkit.text.supervised import learn
from genkit.training.log import MetricLogger, TrainReport
from genkit.training.record import check_resumable, read_record
from genkit.training.rundir import RunDir
from genkit.training.schedule import lr_scale
from genkit.training.state import TrainState

# settings that may differ when a run is resumed: they change how long it is or what it reports
MAY_CHANGE = frozenset({
    "budget", "steps", "epochs", "patience", "out", "data_license", "tensorboard", "eval_interval", "save_interval",
})  # fmt: skip
OUT_OF_MEMORY = "use a smaller --batch-size or --max-length, or a smaller --init-from"


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
        start.model.to(runtime.device).train()
        config = settle(config, start.model)
        rows = Rows(start.model, data.train, config.seed)
        warnings = data.warnings()
        if rows.cut:
            warnings.append(f"{rows.cut:,} texts reach --max-length {config.max_length}: what lies beyond is not seen")
        for line in (data.line(), f"{config.init_from}: {start.model.num_parameters() / 1e6:.2f} M parameters"):
            logger.message(line)
        for warning in warnings:
            logger.message(warning)

        return learn(
            _Classes(config, runtime, start.model, data, rows),
            config, run, runtime, logger,
            origin=start.origin,
            intervals={"eval": config.eval_interval, "save": config.save_interval},
            parts=1,
            budget=budget_of(config, len(data.train)),
            started=started,
            command="genkit train-classifier",
            resume=resume,
            warnings=warnings,
        )  # fmt: skip


class _Classes:
    """A classifier, and labelled texts that it learns."""

    unit = "examples"

    def __init__(
        self, config: ClassifyTrainConfig, runtime: Runtime, model: Classifier, data: LabelledSet, rows: Rows
    ) -> None:
        self._config, self._runtime, self._data, self._rows = config, runtime, data, rows
        self.model, self.optimizers, self.per_epoch = model, optimizer_of(model, config), len(data.train)
        self._val_rows, self._val_labels = encoded(model, data.val), numbers(data.val, data.classes)
        self._weights = rows.weights().to(runtime.device) if config.balance else None

    def lr_scale(self, fraction: float) -> float:
        """Linear: up in the warm-up, then down to nothing."""
        return lr_scale("wsd", fraction, warmup=self._config.warmup, cooldown=1 - self._config.warmup)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self._rows.batch(step, self._config.batch_size)  # (B, 3, T), (B,)

    def count(self, x: Tensor, y: Tensor) -> int:
        return len(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        losses = F.cross_entropy(self.model(x).float(), y, reduction="none")  # (B,)
        return (losses if self._weights is None else losses * self._weights[y]).mean()

    def validate(self, parts: int) -> dict[str, float]:
        if not self._data.val:
            return {}
        found = measure(self._data.classes, self._val_labels, logits_of(self.model, self._val_rows, self._runtime))
        return {
            "val_loss": found.loss,
            "val_accuracy": found.accuracy,
            "val_macro_f1": found.macro_f1,
            "val_majority": found.majority,
        }

    def is_better(self, found: Mapping[str, float], best: Mapping[str, float]) -> bool:
        """By macro F1, which heeds rare classes; where it is equal, by the loss."""
        return (found["val_macro_f1"], -found["val_loss"]) > (best["val_macro_f1"], -best["val_loss"])

    def sample(self, run: RunDir, step: int) -> dict[str, float]:
        return {}

    def publish(self, run: RunDir, state: TrainState, into: str = "") -> None:
        publish(run, self.model, self._data, self._config, self._runtime, state, into=into)

    def verdict(self, shown: Mapping[str, float]) -> tuple[str, ...]:
        if not self._data.val:
            return ()
        return (
            f"accuracy {shown['val_accuracy']:.4f}, macro F1 {shown['val_macro_f1']:.4f} on "
            f"{len(self._data.val):,} held-out texts; "
            f"always naming the most frequent class would give {shown['val_majority']:.4f}",
        )

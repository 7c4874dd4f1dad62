"""What the training on pairs begins with: its settings, its model and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Adafactor, Optimizer

from genkit.text.recipe import auto_epochs
from genkit.text.seq2seq.data import PairSet, limits
from genkit.text.seq2seq.flags import check_pairs_settings
from genkit.text.seq2seq.model import Seq2Seq, load_seq2seq
from genkit.text.start import find_given, origin
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.optim import text_optimizers

_BATCH = 16  # pairs
_ADAFACTOR_LR = 1e-3  # T5's own (Raffel et al. 2020); it is relative to the size of the weights
_T5_LR, _LR = 3e-4, 5e-5  # of AdamW, at width 512 and above
_NARROW = 512
_LEFT_OPEN: dict[str, Any] = {
    "max_epochs": 0.0, "optimizer": "auto", "lr": 0.0, "batch_size": 0, "schedule": "auto",
    "max_source_tokens": None, "max_target_tokens": None,
}  # fmt: skip


@dataclass(frozen=True)
class Start:
    """The model of `--init-from`; `origin` is for `genkit.json`."""

    model: Seq2Seq
    origin: dict[str, Any]


def starting_point(config: TextTrainConfig, *, resumed: Path | None = None) -> Start:
    """The model of the run `resumed`, or of `--init-from`.

    Raises:
        UsageError: settings that do not go with it, or it lies in --out.
        InputError: no such model, or one that cannot be trained.
    """
    check_pairs_settings(config)
    folder = resumed or find_given(config)
    model = load_seq2seq(folder, dropout=config.dropout, label_smoothing=config.label_smoothing)
    return Start(model, {} if resumed is not None else origin(str(config.init_from), folder))


def as_begun(config: TextTrainConfig, record: Mapping[str, Any]) -> TextTrainConfig:
    """`config` with what it leaves open as it was settled when the run of `record` began."""
    began = record.get("config")
    if not isinstance(began, dict):
        return config
    open_ = [name for name, left in _LEFT_OPEN.items() if getattr(config, name) == left]
    return config.replace(**{name: began[name] for name in open_ if name in began})


def bounded(config: TextTrainConfig, model: Seq2Seq) -> TextTrainConfig:
    """`config` with the lengths at which sides are cut.

    Raises:
        UsageError: as `data.limits`.
    """
    source, target = limits(config, model)
    return config.replace(max_source_tokens=source, max_target_tokens=target)


def settled(config: TextTrainConfig, model: Seq2Seq, pairs: PairSet) -> TextTrainConfig:
    """`config` with a value for everything else that it leaves open."""
    optimizer = "adamw" if config.optimizer == "auto" else config.optimizer
    return config.replace(
        optimizer=optimizer,
        schedule="linear" if config.schedule == "auto" else config.schedule,
        lr=config.lr or _lr(model, optimizer),
        batch_size=config.batch_size or -(-_BATCH // config.accumulate) * config.accumulate,
        max_epochs=config.max_epochs or round(auto_epochs(config, pairs.tokens_per_epoch, model.num_parameters()), 1),
    )


def _lr(model: Seq2Seq, optimizer: str) -> float:
    if optimizer == "adafactor":
        return _ADAFACTOR_LR
    wide = _T5_LR if "t5" in model.body.config.model_type else _LR
    return wide * min(10.0, max(1.0, (_NARROW / model.width) ** 2))


def optimizers_of(model: Seq2Seq, config: TextTrainConfig) -> dict[str, Optimizer]:
    """AdamW (Loshchilov and Hutter 2019), or Adafactor (Shazeer and Stern 2018), which keeps sums of rows and columns.

    Under AdamW matrices decay; embeddings, norms and biases do not. Under Adafactor, whose
    steps go by the size of each tensor, all do.
    """
    if config.optimizer == "adamw":
        return text_optimizers(
            model,
            optimizer="adamw",
            lr=config.lr,
            muon_lr=config.muon_lr,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
        )
    trained: list[nn.Parameter] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adafactor = Adafactor(trained, lr=config.lr, weight_decay=config.weight_decay)
    for group in adafactor.param_groups:
        group["peak_lr"] = group["lr"]
    return {"adafactor": adafactor}

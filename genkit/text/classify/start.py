"""What the training of a classifier begins with: its settings, its model and its optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from genkit import library
from genkit.errors import InputError, UsageError
from genkit.runtime.seeds import derive_seed
from genkit.text.adapters import model_hash
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.labelled import Classes
from genkit.text.classify.model import Classifier
from genkit.text.classify.predict import load_classifier
from genkit.training.schedule import Budget

EPOCHS = 3.0  # where nobody says when to stop
_HEAD_LR = 1e-3
_LR_AT_768, _LARGEST_LR = 3e-5, 3e-4  # of BERT's base size; of small GPTs
_LEFT_OPEN: dict[str, Any] = {"lr": 0.0, "head_lr": 0.0, "epochs": None, "max_length": None}


@dataclass(frozen=True)
class Start:
    """The model of `--init-from` with a head for the classes; `origin` is for `genkit.json`."""

    model: Classifier
    origin: dict[str, Any]


def find_backbone(config: ClassifyTrainConfig) -> Path:
    """The folder of `--init-from`.

    Raises:
        UsageError: it lies in --out.
        InputError: no such model, or none that reads text.
    """
    name = config.init_from
    if name not in library.bundled() and Path(name).resolve().is_relative_to(Path(config.out).resolve()):
        raise UsageError(f"--init-from {name} lies in --out {config.out}", "choose another --out")
    folder = library.find(name)
    if folder.is_file():
        raise InputError(f"--init-from {name}: a GGUF file is not trained further", "name the model directory")
    if library.kind(folder) != "text":
        raise InputError(f"--init-from {name} is an image model", "name a text model")
    return folder


def starting_point(config: ClassifyTrainConfig, classes: Classes, *, resumed: Path | None = None) -> Start:
    """A classifier of those classes: that of the run `resumed`, or a new head on the model of `--init-from`.

    Raises:
        InputError: no such model, or one that cannot be a classifier.
    """
    if resumed is not None:
        return Start(load_classifier(resumed, classes, max_length=config.max_length), {})
    folder = find_backbone(config)
    torch.manual_seed(derive_seed(config.seed, "head"))
    model = load_classifier(folder, classes, max_length=config.max_length)
    if config.max_length is not None and config.max_length > model.context:
        raise UsageError(
            f"--max-length {config.max_length} is more than the model's context", f"use {model.context} or less"
        )
    return Start(model, {"base": {"model": config.init_from, "sha256": model_hash(folder)}})


def settle(config: ClassifyTrainConfig, model: Classifier) -> ClassifyTrainConfig:
    """`config` with a value for everything that it leaves open."""
    lr = config.lr or min(_LARGEST_LR, _LR_AT_768 * (768 / model.width) ** 2)
    whole_run = config.budget is None and config.steps is None and config.epochs is None
    return config.replace(
        lr=lr,
        head_lr=config.head_lr or max(_HEAD_LR, lr),
        epochs=EPOCHS if whole_run else config.epochs,
        max_length=model.max_length,
    )


def as_begun(config: ClassifyTrainConfig, record: Mapping[str, Any]) -> ClassifyTrainConfig:
    """`config` with what it leaves open as it was settled when the run of `record` began."""
    began = record.get("config")
    if not isinstance(began, dict):
        return config
    now = config.to_dict()
    open_ = {name for name, left in _LEFT_OPEN.items() if now[name] == left}
    if config.budget is not None or config.steps is not None:
        open_.discard("epochs")
    return config.replace(**{name: began[name] for name in open_ if name in began})


def budget_of(config: ClassifyTrainConfig, examples: int) -> Budget:
    """When the run ends.

    Raises:
        UsageError: two flags say when.
    """
    units = None if config.epochs is None else math.ceil(config.epochs * examples)
    return Budget.of(budget=config.budget, steps=config.steps, units=units, unit="epochs")


def optimizer_of(model: Classifier, config: ClassifyTrainConfig) -> dict[str, Optimizer]:
    """AdamW: matrices decay, embeddings, norms and biases do not; the head has a rate of its own."""
    head = {id(parameter) for parameter in model.head()}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        decays = parameter.ndim > 1 and id(parameter) not in tables
        groups.setdefault((id(parameter) in head, decays), []).append(parameter)
    described = []
    for (is_head, decays), parameters in sorted(groups.items(), key=lambda item: item[0]):
        lr = config.head_lr if is_head else config.lr
        decay = config.weight_decay if decays else 0.0
        described.append({"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return {"adamw": AdamW(described, lr=config.lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)}

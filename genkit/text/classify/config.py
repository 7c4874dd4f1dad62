"""Every setting of classifiers, with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import LARGEST_SEED, Config, option, parse_duration

_DATA, _MODEL, _BUDGET, _OPTIMISATION, _RUN = "Data", "Model", "Budget", "Optimisation", "Run"


@dataclass(frozen=True, kw_only=True)
class ClassifyTrainConfig(Config):
    """Everything that decides the training of a classifier."""

    data: tuple[str, ...] = option((), "Labelled texts: jsonl, or csv and tsv with a header; also .gz .bz2 .xz .zst.", multiple=True, metavar="PATH", section=_DATA)
    text_field: str = option("text", "Field or column that holds the text.", section=_DATA)
    label_field: str = option("label", "Field or column that holds the label: text or a whole number.", section=_DATA)
    pair_field: str | None = option(None, "Field or column of a second text, where pairs are classified.", section=_DATA)
    val_data: str | None = option(None, "Validate on this file instead of a share of --data.", metavar="PATH", section=_DATA)
    val_fraction: float = option(0.1, "Share of each class of --data held out for validation; 0 holds out none.", min=0, below=1, section=_DATA)
    data_license: str | None = option(None, "Licence and credit of the data, kept in genkit.json.", metavar="TEXT", section=_DATA)

    init_from: str = option("story", "The model that gets a classifying head: a bundled name, a run or model directory, or hf:org/name.", metavar="MODEL", section=_MODEL)
    max_length: int | None = option(None, "Tokens of a text that are looked at; the rest is cut off. Default: the model's context, 512 at most.", min=1, max=1 << 20, section=_MODEL)

    budget: float | None = option(None, "Wall time for everything, e.g. 10m or 2h.", parse=parse_duration, above=0, metavar="TIME", section=_BUDGET)
    steps: int | None = option(None, "Optimiser steps.", min=1, section=_BUDGET)
    epochs: float | None = option(None, "How often the data is seen. Default, without another budget: 3.", above=0, max=1_000_000, section=_BUDGET)

    lr: float = option(0.0, "Peak learning rate of AdamW; 0: goes by the model's width.", min=0, max=10, section=_OPTIMISATION)
    head_lr: float = option(0.0, "That of the new head; 0: the larger of 0.001 and --lr.", min=0, max=10, section=_OPTIMISATION)
    weight_decay: float = option(0.01, "Decoupled weight decay of matrices.", min=0, max=10, section=_OPTIMISATION)
    grad_clip: float = option(1.0, "Largest gradient norm; 0 is off.", min=0, section=_OPTIMISATION)
    batch_size: int = option(32, "Texts an optimiser step.", min=1, max=1 << 20, section=_OPTIMISATION)
    warmup: float = option(0.1, "Share of the run that warms up; after it the rate falls linearly to 0.", min=0, below=1, section=_OPTIMISATION)
    balance: bool = option(False, "Let each class weigh the same in the loss, however many examples it has.", section=_OPTIMISATION)

    out: str = option("runs/classifier", "Run directory.", metavar="RUN", section=_RUN)
    eval_interval: int | None = option(None, "Steps between validations; default: about 20 times a run.", min=1, section=_RUN)
    save_interval: int | None = option(None, "Steps between checkpoints; default: as often, and every 5 minutes.", min=1, section=_RUN)
    patience: int = option(0, "Stop after this many validations in a row without a better one; 0: never.", min=0, section=_RUN)
    seed: int = option(0, "Seed of the head, the data's order, the split and dropout.", min=0, max=LARGEST_SEED, section=_RUN)
    tensorboard: bool = option(False, "Also write TensorBoard events.", section=_RUN)

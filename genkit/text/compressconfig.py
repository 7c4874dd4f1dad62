"""Settings of `genkit compress`, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from genkit.config import LARGEST_SEED, Config, option, parse_count, parse_duration
from genkit.errors import UsageError
from genkit.text.quantized import BITS
from genkit.text.trainconfig import PRESETS, TextTrainConfig

HALF = "half"
_METHOD, _DATA, _BUDGET, _OPTIMISATION, _RUN = "Method", "Data", "Budget", "Optimisation", "Run"
# what the training run of a smaller model takes over
_SHARED = (
    *("data", "text_field", "val_data", "val_fraction", "data_license", "budget", "steps", "tokens"),
    *("lr", "batch_size", "eval_tokens", "out", "seed"),
)
TRAINING = frozenset({"budget", "steps", "tokens", "lr", "batch_size", "teacher_weight", "data_license"})
"""Settings that mean something only where a model is trained."""


@dataclass(frozen=True, kw_only=True)
class CompressConfig(Config):
    """How a model is made cheaper."""

    quantize: str | None = option(
        None, "Store the matrices of the layers in 8 or 4 bits a number.", choices=(*BITS,), section=_METHOD
    )
    prune: float | None = option(
        None,
        "Leave out this share of each layer's feed-forward neurons, those that matter least on --data; "
        "without --data those of the smallest weights. With a budget the rest is trained to make up for it.",
        above=0,
        below=1,
        metavar="SHARE",
        section=_METHOD,
    )
    distill_into: str | None = option(
        None,
        "Train a smaller model to predict as MODEL does; half: of half the parameters, made of MODEL's own blocks.",
        choices=(HALF, *PRESETS),
        metavar="half|" + "|".join(PRESETS),
        section=_METHOD,
    )

    data: tuple[str, ...] = option(
        (),
        "Text to learn from; with --quantize, to measure on. File or folder: txt, md, jsonl, csv, parquet, also "
        ".gz .bz2 .xz .zst.",
        multiple=True,
        metavar="PATH[:WEIGHT]",
        section=_DATA,
    )
    text_field: str = option("text", "Field that holds the text in jsonl, csv and parquet.", section=_DATA)
    val_data: str | None = option(
        None, "Measure on this file or folder instead of a share of --data.", metavar="PATH", section=_DATA
    )
    val_fraction: float = option(0.05, "Share of --data held out to measure on.", above=0, below=1, section=_DATA)
    eval_tokens: int = option(32_768, "Tokens to measure on.", min=1, parse=parse_count, metavar="COUNT", section=_DATA)
    data_license: str | None = option(
        None, "Licence and credit of the data, kept in genkit.json.", metavar="TEXT", section=_DATA
    )

    budget: float | None = option(
        None, "Wall time for everything, e.g. 20m.", parse=parse_duration, above=0, metavar="TIME", section=_BUDGET
    )
    steps: int | None = option(None, "Optimiser steps.", min=1, section=_BUDGET)
    tokens: int | None = option(
        None, "Tokens to train on, e.g. 5M.", parse=parse_count, min=1, metavar="COUNT", section=_BUDGET
    )

    teacher_weight: float = option(
        0.7,
        "Share of the loss that is the difference from MODEL's probabilities; the rest is that from the text.",
        min=0,
        max=1,
        section=_OPTIMISATION,
    )
    lr: float = option(
        2e-3, "Peak learning rate of AdamW; Muon has 0.02.", above=0, max=10, section=_OPTIMISATION
    )
    batch_size: int = option(
        0, "Sequences an optimiser step; 0: goes by width and machine.", min=0, max=1 << 20, section=_OPTIMISATION
    )

    out: str = option("runs/compressed", "Directory of the model, or of the run.", metavar="RUN", section=_RUN)
    seed: int = option(0, "Seed of new weights and of the data's order.", min=0, max=LARGEST_SEED, section=_RUN)

    def __post_init__(self) -> None:
        super().__post_init__()
        methods = {"--quantize": self.quantize, "--prune": self.prune, "--distill-into": self.distill_into}
        if len(given := [flag for flag, value in methods.items() if value is not None]) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other", "compress the result again")

    @property
    def budgeted(self) -> bool:
        """Whether the user said how long to train."""
        return any(value is not None for value in (self.budget, self.steps, self.tokens))

    @property
    def trains(self) -> bool:
        """Whether there is a training run."""
        return self.distill_into is not None or (self.prune is not None and self.budgeted)

    @property
    def measured(self) -> tuple[str, ...]:
        """The text that a model is measured on as a whole; empty where that is the share held out."""
        return (self.val_data,) if self.val_data else self.data if self.quantize else ()

    def method(self) -> dict[str, Any]:
        """What `genkit.json` says of it.

        Raises:
            UsageError: no method is given.
        """
        if self.quantize:
            return {"method": "quantize", "precision": self.quantize}
        if self.prune:
            return {"method": "prune", "share": self.prune}
        if self.distill_into:
            return {"method": "distill", "into": self.distill_into}
        raise UsageError("how to compress is missing", "add --quantize int8, --prune 0.3 or --distill-into half")

    def training(self) -> TextTrainConfig:
        """The settings of the training run, or of the reading of the text alone.

        Raises:
            UsageError: there is no text.
        """
        if not self.data:
            raise UsageError("a smaller model is trained on text, and --data is missing", "name it with --data")
        return TextTrainConfig(**{name: getattr(self, name) for name in _SHARED}, optimizer="muon", compile=False)

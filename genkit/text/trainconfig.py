"""How a text model is trained: every setting, with its one default. Stdlib only.

Apart from `config`, because a command that samples is quicker without.
"""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import LARGEST_SEED, Config, option, parse_count, parse_duration
from genkit.errors import UsageError
from genkit.text.config import ARCHITECTURES

HEAD_DIM = 64


@dataclass(frozen=True)
class Preset:
    """A model size: layers, width, context. Heads are `HEAD_DIM` wide."""

    n_layer: int
    n_embd: int
    block_size: int


PRESETS = {
    "tiny": Preset(4, 128, 128),
    "nano": Preset(6, 256, 256),
    "baby": Preset(6, 384, 256),
    "mini": Preset(8, 512, 512),
    "small": Preset(12, 768, 1024),
}


_MODEL, _DATA, _PAIRS, _FINE = "Model", "Data", "Pairs of texts", "Fine-tuning"
_OPTIMISATION, _BUDGET, _RUN = "Optimisation", "Budget", "Run"


@dataclass(frozen=True, kw_only=True)
class TextTrainConfig(Config):
    """Everything that decides a text training run."""

    data: tuple[str, ...] = option((), "File or folder: txt, md, jsonl, csv, tsv, parquet, also .gz .bz2 .xz .zst. WEIGHT: how often an epoch sees it.", multiple=True, metavar="PATH[:WEIGHT]", section=_DATA)
    text_field: str = option("text", "Field that holds the text in jsonl, csv and parquet.", section=_DATA)
    val_data: str | None = option(None, "Validate on this file or folder instead of a share of --data.", metavar="PATH", section=_DATA)
    val_fraction: float = option(0.05, "Share of --data held out for validation.", min=0, below=1, section=_DATA)
    source_field: str | None = option(None, "Field of the text to read, for sequence-to-sequence models. Default: source, src, instruction, input or prompt.", metavar="FIELD", section=_PAIRS)
    target_field: str | None = option(None, "Field of the text to write. Default: target, tgt, output or completion.", metavar="FIELD", section=_PAIRS)
    source_prefix: str = option("", "What stands before every source, such as T5's 'summarize: '.", metavar="TEXT", section=_PAIRS)
    max_source_tokens: int | None = option(None, "Cut sources to this length. Default: 512, or what the model can see.", min=2, max=1 << 20, section=_PAIRS)
    max_target_tokens: int | None = option(None, "Cut targets to this length. Default: as for sources.", min=2, max=1 << 20, section=_PAIRS)
    label_smoothing: float = option(0.0, "Share of each target's probability that is spread over the vocabulary.", min=0, below=1, section=_PAIRS)
    tokenizer: str = option("auto", "auto, char, bpe, or a tokenizer.json. auto: char up to 2 MB of text, else bpe.", metavar="KIND|FILE", section=_DATA)
    vocab_size: int = option(4096, "Vocabulary that bpe aims at.", min=258, max=1 << 20, section=_DATA)
    data_license: str | None = option(None, "Licence and credit of the data, kept in genkit.json.", metavar="TEXT", section=_DATA)
    encoding_errors: str = option("strict", "What to do with bytes that are not UTF-8.", choices=("strict", "replace"), section=_DATA)
    on_bad_file: str = option("auto", "A file that cannot be read: refuse it, or skip it. auto: skip what is found in a folder, refuse what is named.", choices=("auto", "refuse", "skip"), section=_DATA)
    keep_duplicates: bool = option(False, "Train on identical documents as often as they come.", section=_DATA)

    arch: str = option("qwen3", "Block layout.", choices=ARCHITECTURES, section=_MODEL)
    preset: str = option("auto", "Model size; auto goes by the amount of data and the machine.", choices=("auto", *PRESETS), section=_MODEL)
    n_layer: int | None = option(None, "Blocks, instead of the preset's.", min=1, max=256, section=_MODEL)
    n_embd: int | None = option(None, "Width, instead of the preset's.", min=8, max=1 << 15, section=_MODEL)
    n_head: int | None = option(None, "Attention heads, instead of the preset's.", min=1, max=256, section=_MODEL)
    n_kv_head: int | None = option(None, "Key-value heads; fewer than heads is grouped-query attention.", min=1, max=256, section=_MODEL)
    block_size: int | None = option(None, "Context in tokens, instead of the preset's.", min=8, max=1 << 20, section=_MODEL)
    dropout: float | None = option(None, "Dropout while training. Default: 0, or what a sequence-to-sequence model brings.", min=0, below=1, section=_MODEL)
    tie_embeddings: bool | None = option(None, "Share the embedding with the output head. Default: for vocabularies over 16,384.", section=_MODEL)
    init_from: str | None = option(None, "Start from this model instead of random weights: a directory, a run, a bundled name, or hf:org/name.", metavar="MODEL", section=_FINE)
    freeze: str | None = option(None, "Of the model of --init-from, leave as they are: the embedding, the first N blocks, or both.", metavar="embed|N|embed,N", section=_FINE)
    lora: int = option(0, "Train adapters of this rank instead of the weights of --init-from (LoRA); 0 trains the weights.", min=0, max=4096, metavar="RANK", section=_FINE)
    lora_alpha: float | None = option(None, "Scale of the adapters, over the rank. Default: twice the rank.", above=0, max=1 << 16, section=_FINE)
    lora_target: str = option("all-linear", "Layers that get adapters, by their names in transformers, with commas: q_proj,v_proj.", metavar="NAMES", section=_FINE)
    lora_dropout: float = option(0.0, "Dropout of what goes into the adapters.", min=0, below=1, section=_FINE)

    budget: float | None = option(None, "Wall time for everything, e.g. 10m or 2h.", parse=parse_duration, above=0, metavar="TIME", section=_BUDGET)
    steps: int | None = option(None, "Optimiser steps.", min=1, section=_BUDGET)
    tokens: int | None = option(None, "Tokens to train on, e.g. 5M.", parse=parse_count, min=1, metavar="COUNT", section=_BUDGET)
    max_epochs: float = option(0.0, "A budget of time ends when the data was seen this often, before it is learnt by heart; 0: goes by the sizes of data and model.", min=0, section=_BUDGET)

    optimizer: str = option("auto", "muon: Muon for hidden matrices, AdamW for the rest. adafactor: for sequence-to-sequence models. auto: muon, but adamw with --init-from.", choices=("auto", "muon", "adamw", "adafactor"), section=_OPTIMISATION)
    lr: float = option(0.0, "Peak learning rate of AdamW; 0: goes by optimizer, width and --init-from.", min=0, max=10, section=_OPTIMISATION)
    muon_lr: float = option(0.02, "Peak learning rate of Muon.", above=0, max=10, section=_OPTIMISATION)
    weight_decay: float = option(0.1, "Decoupled weight decay of matrices.", min=0, max=10, section=_OPTIMISATION)
    beta1: float = option(0.9, "AdamW's first-moment decay.", min=0, below=1, section=_OPTIMISATION)
    beta2: float = option(0.95, "AdamW's second-moment decay.", min=0, below=1, section=_OPTIMISATION)
    grad_clip: float = option(1.0, "Largest gradient norm; 0 is off.", min=0, section=_OPTIMISATION)
    batch_size: int = option(0, "Sequences an optimiser step; 0: goes by width and machine.", min=0, max=1 << 20, section=_OPTIMISATION)
    accumulate: int = option(1, "Split each batch into this many forward passes.", min=1, section=_OPTIMISATION)
    schedule: str = option("auto", "wsd: warm up, flat, cool down. linear: warm up, go down at once. cosine: warm up, half a cosine. auto: wsd, but linear for sequence-to-sequence models.", choices=("auto", "wsd", "linear", "cosine", "constant"), section=_OPTIMISATION)
    warmup: float = option(0.02, "Share of the run that warms up.", min=0, max=1, section=_OPTIMISATION)
    cooldown: float = option(0.7, "Share of the run that cools down (wsd).", min=0, max=1, section=_OPTIMISATION)
    min_lr: float = option(0.0, "Learning rate at the end, as a share of the peak.", min=0, max=1, section=_OPTIMISATION)

    out: str = option("runs/text", "Run directory.", metavar="RUN", section=_RUN)
    eval_interval: int | None = option(None, "Steps between validations; default: about 20 times a run.", min=1, section=_RUN)
    eval_tokens: int = option(32_768, "Validation tokens to measure while training.", min=1, parse=parse_count, metavar="COUNT", section=_RUN)
    patience: int = option(0, "Stop after this many validations in a row without a better one; 0: never.", min=0, section=_RUN)
    sample_interval: int | None = option(None, "Steps between samples; default: as often.", min=1, section=_RUN)
    sample_prompt: str = option("", "Prompt of the samples drawn while training.", metavar="TEXT", section=_RUN)
    save_interval: int | None = option(None, "Steps between checkpoints; default: as often, and every 5 minutes.", min=1, section=_RUN)
    seed: int = option(0, "Seed of weights, data order and dropout.", min=0, max=LARGEST_SEED, section=_RUN)
    compile: bool | None = option(None, "Compile the training step with torch.compile. Default: for runs of about ten minutes and more.", section=_RUN)
    parallel: str = option("auto", "Under torchrun. ddp: a whole model on every GPU; fsdp: one, split over them; auto: ddp if it fits.", choices=("auto", "ddp", "fsdp"), section=_RUN)
    tensorboard: bool = option(False, "Also write TensorBoard events.", section=_RUN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"--accumulate {self.accumulate} does not divide --batch-size {self.batch_size}",
                f"use {_next_divisor(self.batch_size, self.accumulate)}",
            )
        self._check_fine_tuning()
        if self.schedule in ("auto", "wsd") and self.warmup + self.cooldown > 1:
            raise UsageError(
                f"--warmup {self.warmup} and --cooldown {self.cooldown} are more than the whole run",
                "their sum may be 1 at most",
            )

    def _check_fine_tuning(self) -> None:
        parse_freeze(self.freeze)
        given = [flag for flag, value in (("--lora", self.lora), ("--freeze", self.freeze)) if value]
        if given and self.init_from is None:
            raise UsageError(f"{given[0]} needs a model that is trained already", "name it with --init-from")
        if len(given) > 1:
            raise UsageError("--freeze does not go with --lora, which leaves all weights as they are", "use --lora-target to adapt fewer layers")
        adapters = {"--lora-alpha": self.lora_alpha is not None, "--lora-dropout": self.lora_dropout > 0, "--lora-target": self.lora_target != "all-linear"}
        for flag, is_given in adapters.items():
            if is_given and not self.lora:
                raise UsageError(f"{flag} needs --lora", "give the adapters' rank, for instance --lora 8")
        if not self.lora_targets:
            raise UsageError(f"--lora-target {self.lora_target!r} names no layer", "write for instance q_proj,v_proj")

    @property
    def decay(self) -> float:
        """Share of the run in which the learning rate falls, by the schedule."""
        return 1 - self.warmup if self.schedule == "linear" else self.cooldown

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or its default."""
        return self.lora_alpha or 2.0 * self.lora

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The names in `lora_target`."""
        return tuple(name.strip() for name in self.lora_target.split(",") if name.strip())


def parse_freeze(text: str | None) -> tuple[bool, int]:
    """`embed,4` -> whether the embedding stays as it is, and how many of the first blocks do.

    Raises:
        UsageError: it says something else, or a part of it twice.
    """
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    numbers = [part for part in parts if part.isdecimal() and part.isascii() and int(part) > 0]
    if len(parts) - parts.count("embed") != len(numbers) or parts.count("embed") > 1 or len(numbers) > 1:
        raise UsageError(f"--freeze {text!r} is not embed, a number of blocks, or both", "write for instance --freeze embed,4")
    return "embed" in parts, int(numbers[0]) if numbers else 0


def _next_divisor(whole: int, near: int) -> int:
    return next(d for d in range(min(near, whole), 0, -1) if whole % d == 0)

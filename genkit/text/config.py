"""Every setting of the text half, with its one default. Stdlib only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from genkit.config import LARGEST_SEED, Config, option, parse_count, parse_duration
from genkit.errors import InputError, UsageError

ARCHITECTURES = ("qwen3", "llama", "gpt2")


class VariantError(InputError):
    """One of our architectures, in a variant that our code does not build."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of a decoder-only transformer; `arch` says how its blocks are built.

    `gpt2`   LayerNorm, learned positions, GELU, biases   (Radford et al. 2019)
    `llama`  RMSNorm, RoPE, SwiGLU, grouped-query attention (Touvron et al. 2023)
    `qwen3`  llama with RMSNorm on each head's q and k      (Qwen team 2025)

    `from_hf` and `to_hf` convert from and to the `config.json` of `transformers`.
    """

    arch: str = "qwen3"
    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_dim: int
    n_inner: int
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_embeddings: bool = True
    bos_id: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in vars(self).items() if k.startswith("n_") or k.endswith("_size")}
        for name, value in {**sizes, "head_dim": self.head_dim}.items():
            if not isinstance(value, int) or not 0 < value <= 1 << 24:
                raise InputError(f"model config: {name} is {value!r}, not a size from 1 to {1 << 24}")
        if self.n_layer > 1024:
            raise InputError(f"model config: n_layer is {self.n_layer}, more than 1024")
        if self.arch not in ARCHITECTURES:
            raise InputError(f"model config: arch {self.arch!r} is not one of {', '.join(ARCHITECTURES)}")
        if self.n_head % self.n_kv_head:
            raise InputError(f"model config: {self.n_head} heads do not divide into {self.n_kv_head} key-value heads")
        if self.arch == "gpt2" and (self.n_kv_head != self.n_head or self.head_dim * self.n_head != self.n_embd):
            raise InputError("model config: gpt2 has one key-value head a head, and heads that fill n_embd")
        if self.arch != "gpt2" and self.head_dim % 2:
            raise InputError(f"model config: rotary positions need an even head_dim, not {self.head_dim}")

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that `transformers` reads for the same model."""
        common = {
            "model_type": self.arch,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_id,
            "dtype": "float32",
            "use_cache": True,
        }
        if self.arch == "gpt2":
            return common | {
                "architectures": ["GPT2LMHeadModel"],
                "n_positions": self.block_size,
                "n_embd": self.n_embd,
                "n_layer": self.n_layer,
                "n_head": self.n_head,
                "n_inner": self.n_inner,
                "layer_norm_epsilon": self.norm_eps,
                "activation_function": "gelu_new",
                "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
            }  # fmt: skip
        return common | {
            "architectures": ["LlamaForCausalLM" if self.arch == "llama" else "Qwen3ForCausalLM"],
            "max_position_embeddings": self.block_size,
            "hidden_size": self.n_embd,
            "intermediate_size": self.n_inner,
            "num_hidden_layers": self.n_layer,
            "num_attention_heads": self.n_head,
            "num_key_value_heads": self.n_kv_head,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "attention_bias": False,
            "attention_dropout": 0.0,
        } | ({"mlp_bias": False} if self.arch == "llama" else {"use_sliding_window": False})

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> GPTConfig:
        """Read a `config.json` of `transformers`.

        Raises:
            VariantError: biases, RoPE scaling, sliding windows: this code does not build them.
            InputError: another model type, or a missing key.
        """
        arch = hf.get("model_type")
        if arch not in ARCHITECTURES:
            raise InputError(f"model_type {arch!r} is not one of {', '.join(ARCHITECTURES)}")
        for key, plain in _UNSUPPORTED.items():
            if key in hf and hf[key] not in plain:
                raise VariantError(f"model config: {key}={hf[key]!r} is a variant of {arch} that genkit does not build")
        rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
        if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
            raise VariantError(f"model config: RoPE scaling {rope!r} is not supported")
        eos = hf.get("eos_token_id")
        eos = next(iter(eos), None) if isinstance(eos, list) else eos
        ids: dict[str, Any] = {"bos_id": hf.get("bos_token_id"), "eos_id": eos}
        for name, value in ids.items():
            if value is not None and type(value) is not int:
                raise InputError(f"model config: {name} is {value!r}, not a token")
        try:
            if arch == "gpt2":
                return cls(
                    arch=arch,
                    vocab_size=hf["vocab_size"],
                    block_size=hf["n_positions"],
                    n_layer=hf["n_layer"],
                    n_head=hf["n_head"],
                    n_kv_head=hf["n_head"],
                    n_embd=hf["n_embd"],
                    head_dim=hf["n_embd"] // hf["n_head"],
                    n_inner=hf.get("n_inner") or 4 * hf["n_embd"],
                    norm_eps=float(hf.get("layer_norm_epsilon", 1e-5)),
                    tie_embeddings=hf.get("tie_word_embeddings", True),
                    **ids,
                )
            heads = hf["num_attention_heads"]
            return cls(
                arch=arch,
                vocab_size=hf["vocab_size"],
                block_size=hf["max_position_embeddings"],
                n_layer=hf["num_hidden_layers"],
                n_head=heads,
                n_kv_head=hf.get("num_key_value_heads") or heads,
                n_embd=hf["hidden_size"],
                head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
                n_inner=hf["intermediate_size"],
                norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
                rope_theta=float(hf.get("rope_theta") or rope.get("rope_theta", 10_000.0)),
                tie_embeddings=hf.get("tie_word_embeddings", False),
                **ids,
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"model config: {arch} lacks or misstates {error}") from error


# key -> the values under which our module computes the same function
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "hidden_act": ("silu",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "scale_attn_weights": (True, None),
    "add_cross_attention": (False, None),
}


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


_SAMPLING, _BEAMS, _CONSTRAINTS = "Sampling", "Beam search", "Constraints"
_MODEL, _DATA, _PAIRS, _FINE = "Model", "Data", "Pairs of texts", "Fine-tuning"
_OPTIMISATION, _BUDGET, _RUN = "Optimisation", "Budget", "Run"


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(Config):
    """How a continuation is drawn. Same names and meanings as in `transformers`."""

    n: int = option(1, "Continuations of the prompt.", min=1, max=4096, short="-n", flag="--n", section=_SAMPLING)
    max_new_tokens: int = option(200, "Longest continuation, in tokens. Where the model's context is full, plain text goes on from its last half.", min=1, section=_SAMPLING)
    min_new_tokens: int = option(0, "No end of text before this many tokens.", min=0, section=_SAMPLING)
    temperature: float = option(0.8, "0 takes the likeliest token; 1 draws from the model as it is.", min=0, max=100, section=_SAMPLING)
    top_k: int = option(0, "Keep the K likeliest tokens; 0 keeps all.", min=0, section=_SAMPLING)
    top_p: float = option(0.95, "Keep the likeliest tokens that make up this probability.", above=0, max=1, section=_SAMPLING)
    min_p: float = option(0.0, "Drop tokens below this share of the likeliest one's probability.", min=0, max=1, section=_SAMPLING)
    typical_p: float = option(1.0, "Keep the tokens nearest to the expected surprise that make up this probability.", above=0, max=1, section=_SAMPLING)
    repetition_penalty: float = option(1.0, "Divide the logits of tokens already seen (Keskar et al. 2019); 1 is off.", min=0.05, max=20, section=_SAMPLING)
    frequency_penalty: float = option(0.0, "Subtract this from a logit for each time its token was generated.", min=-10, max=10, section=_SAMPLING)
    presence_penalty: float = option(0.0, "Subtract this once from the logit of any generated token.", min=-10, max=10, section=_SAMPLING)
    no_repeat_ngram_size: int = option(0, "No run of this many tokens occurs twice; 0 is off.", min=0, section=_SAMPLING)
    logit_bias: tuple[str, ...] = option((), "Add BIAS to the logit of TEXT's token, of its last one where it has several.", multiple=True, metavar="TEXT=BIAS", section=_SAMPLING)
    bad_word: tuple[str, ...] = option((), "Never write this text; may be repeated.", multiple=True, metavar="TEXT", section=_SAMPLING)
    stop: tuple[str, ...] = option((), "End before this text; may be repeated.", multiple=True, metavar="TEXT", section=_SAMPLING)
    logprobs: int | None = option(None, "Report each token's log-probability, and those of the K likeliest.", min=0, max=100, metavar="K", section=_SAMPLING)

    num_beams: int = option(1, "Search this many beams instead of drawing; -n of them are returned.", min=1, max=256, section=_BEAMS)
    length_penalty: float = option(1.0, "Divide a beam's score by its length to this power.", min=-10, max=10, section=_BEAMS)
    early_stopping: bool = option(False, "Stop once as many beams as searched are finished.", section=_BEAMS)

    json_schema: str | None = option(None, "Write JSON that fits this schema: a file, or the schema itself.", metavar="FILE|JSON", section=_CONSTRAINTS)
    regex: str | None = option(None, "Write text that matches this regular expression.", metavar="PATTERN", section=_CONSTRAINTS)
    grammar: str | None = option(None, "Write text of this GBNF grammar: a file, or the grammar itself.", metavar="FILE|GBNF", section=_CONSTRAINTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_new_tokens > self.max_new_tokens:
            raise UsageError(
                f"--min-new-tokens {self.min_new_tokens} is more than --max-new-tokens {self.max_new_tokens}",
                "raise --max-new-tokens",
            )
        for flag, texts, harm in (("--stop", self.stop, "end every text at once"), ("--bad-word", self.bad_word, "forbid all")):
            if "" in texts:
                raise UsageError(f"{flag} '' would {harm}", "give the text to look for")
        for bias in self.logit_bias:
            parse_bias(bias)
        if 1 < self.num_beams < self.n:
            raise UsageError(f"--num-beams {self.num_beams} cannot return {self.n} texts", f"raise it to {self.n}")
        if sum(rule is not None for rule in (self.json_schema, self.regex, self.grammar)) > 1:
            raise UsageError("--json-schema, --regex and --grammar exclude each other", "give one of them")

    @property
    def constraint(self) -> str | None:
        """The flag of the rule that the whole text must follow, if there is one."""
        rules = {"--json-schema": self.json_schema, "--regex": self.regex, "--grammar": self.grammar}
        return next((flag for flag, rule in rules.items() if rule is not None), None)


def parse_bias(text: str) -> tuple[str, float]:
    """The text and the number of `TEXT=BIAS`; -inf forbids.

    Raises:
        UsageError: no text, not a number, or one that would drown the logits in rounding.
    """
    words, _, number = text.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        bias = math.nan
    if not words or math.isnan(bias) or bias == math.inf:
        raise UsageError(f"--logit-bias {text!r} is not TEXT=BIAS", "write for instance --logit-bias ' cat=2.5'")
    if abs(bias) > 1000 and bias != -math.inf:
        raise UsageError(f"--logit-bias {text!r} is out of range", "use -1000 <= BIAS <= 1000, or -inf to forbid")
    return words, bias


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

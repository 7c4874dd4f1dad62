"""A GPT's shape, and how text is drawn from it: every setting, with its one default. Stdlib only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from genkit.config import Config, option
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


_SAMPLING, _BEAMS, _CONSTRAINTS = "Sampling", "Beam search", "Constraints"


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

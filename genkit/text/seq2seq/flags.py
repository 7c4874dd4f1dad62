"""Which settings of `train-text` are for pairs of texts, and which for plain text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from genkit.config import flag_name
from genkit.errors import UsageError
from genkit.text.trainconfig import TextTrainConfig

_BRINGS = "the model of --init-from brings its own"
PAIRS_ONLY = ("source_field", "target_field", "source_prefix", "max_source_tokens", "max_target_tokens",
               "label_smoothing")  # fmt: skip
NOT_FOR_PAIRS = {
    "text_field": "use --source-field and --target-field",
    "tokenizer": _BRINGS,
    "vocab_size": _BRINGS,
    "on_bad_file": "leave out what cannot be read",
    **dict.fromkeys(
        ("arch", "preset", "n_layer", "n_embd", "n_head", "n_kv_head", "tie_embeddings", "freeze"), _BRINGS
    ),
    "block_size": "use --max-source-tokens and --max-target-tokens",
    **dict.fromkeys(("lora", "lora_alpha", "lora_target", "lora_dropout"), "all weights are trained; leave it out"),
    "muon_lr": "use --lr",
    "compile": "pairs differ in length, and each length would be compiled anew; leave it out",
    "parallel": "run it without torchrun",
}  # fmt: skip


def check_pairs_settings(config: TextTrainConfig) -> None:
    """Refuse settings that say nothing about a sequence-to-sequence model.

    Raises:
        UsageError: names the first of them.
    """
    _refuse(config, NOT_FOR_PAIRS, f"does not go with {config.init_from}, a sequence-to-sequence model")
    if config.optimizer == "muon":
        raise UsageError("--optimizer muon does not go with a sequence-to-sequence model", "use adamw or adafactor")
    if config.optimizer == "adafactor":
        _refuse(
            config, dict.fromkeys(("beta1", "beta2"), "leave it out, or use adamw"), "is not a setting of Adafactor"
        )


def check_text_settings(config: TextTrainConfig) -> None:
    """Refuse settings that say nothing about plain text.

    Raises:
        UsageError: names the first of them.
    """
    remedy = "leave it out, or name such a model with --init-from, for instance hf:t5-small"
    _refuse(config, dict.fromkeys(PAIRS_ONLY, remedy), "is for sequence-to-sequence models, which learn from pairs")
    if config.optimizer == "adafactor":
        raise UsageError("--optimizer adafactor is for sequence-to-sequence models", "use adamw or muon")


def check_rates(config: TextTrainConfig) -> None:
    """Refuse Muon's learning rate where AdamW trains; a run that goes on has settled that.

    Raises:
        UsageError: it is given.
    """
    uses_muon = config.optimizer == "muon" or (config.optimizer == "auto" and config.init_from is None)
    if config.muon_lr != TextTrainConfig.muon_lr and not uses_muon:
        raise UsageError("--muon-lr says nothing about adamw", "use --lr, or --optimizer muon")


def _refuse(config: TextTrainConfig, remedies: Mapping[str, str], problem: str) -> None:
    for setting in dataclasses.fields(config):
        if setting.name in remedies and getattr(config, setting.name) not in (setting.default, _harmless(setting.name)):
            raise UsageError(f"{flag_name(setting)} {problem}", remedies[setting.name])


def _harmless(name: str) -> object:
    """What a settled run writes into its record in place of the default."""
    return {"compile": False}.get(name)

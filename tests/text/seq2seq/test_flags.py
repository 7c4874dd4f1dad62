"""Settings that go with pairs, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from genkit.config import options
from genkit.errors import UsageError
from genkit.text.seq2seq.flags import NOT_FOR_PAIRS, PAIRS_ONLY, check_pairs_settings, check_text_settings
from genkit.text.trainconfig import TextTrainConfig


@pytest.mark.parametrize(
    ("setting", "flag", "remedy"),
    [
        ({"text_field": "body"}, "--text-field", "--source-field"),
        ({"tokenizer": "bpe"}, "--tokenizer", "brings its own"),
        ({"vocab_size": 300}, "--vocab-size", "brings its own"),
        ({"preset": "nano"}, "--preset", "brings its own"),
        ({"n_layer": 2}, "--n-layer", "brings its own"),
        ({"freeze": "embed"}, "--freeze", "brings its own"),
        ({"block_size": 64}, "--block-size", "--max-source-tokens"),
        ({"lora": 4}, "--lora", "all weights"),
        ({"muon_lr": 0.1}, "--muon-lr", "--lr"),
        ({"optimizer": "muon"}, "--optimizer muon", "adafactor"),
        ({"compile": True}, "--compile", "length"),
        ({"parallel": "fsdp"}, "--parallel", "torchrun"),
        ({"on_bad_file": "skip"}, "--on-bad-file", "leave out"),
    ],
)
def test_settings_of_plain_text_do_not_go_with_pairs(setting: dict[str, Any], flag: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_pairs_settings(TextTrainConfig(init_from="hf:t5-small", **setting))
    assert caught.value.message.startswith(flag)
    assert "sequence-to-sequence" in caught.value.message
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"source_field": "en"}, "--source-field"),
        ({"target_field": "de"}, "--target-field"),
        ({"source_prefix": "say: "}, "--source-prefix"),
        ({"max_source_tokens": 9}, "--max-source-tokens"),
        ({"max_target_tokens": 9}, "--max-target-tokens"),
        ({"label_smoothing": 0.1}, "--label-smoothing"),
        ({"optimizer": "adafactor"}, "--optimizer adafactor"),
    ],
)
def test_settings_of_pairs_do_not_go_with_plain_text(setting: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_text_settings(TextTrainConfig(**setting))
    assert caught.value.message.startswith(f"{flag} is for sequence-to-sequence models")


def test_all_others_go_with_both() -> None:
    shared = {
        "data": ("x",), "val_data": "y", "val_fraction": 0.1, "data_license": "CC0", "encoding_errors": "replace",
        "keep_duplicates": True, "dropout": 0.2, "init_from": "z", "steps": 5, "max_epochs": 2.0, "optimizer": "adamw",
        "lr": 0.1, "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.8, "grad_clip": 0.0, "batch_size": 8, "accumulate": 2,
        "schedule": "linear", "warmup": 0.1, "cooldown": 0.5, "min_lr": 0.1, "out": "o", "eval_interval": 1,
        "eval_tokens": 1, "patience": 1, "sample_interval": 1, "sample_prompt": "p", "save_interval": 1, "seed": 1,
        "tensorboard": True, "compile": False,
    }  # fmt: skip
    check_pairs_settings(TextTrainConfig(**shared))
    check_text_settings(TextTrainConfig(**shared))
    decided = shared.keys() | {"budget", "tokens"} | set(NOT_FOR_PAIRS) | set(PAIRS_ONLY)
    assert decided == {field.name for field, _ in options(TextTrainConfig)}


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_adafactor_has_no_moments_to_set(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} is not a setting of Adafactor"):
        check_pairs_settings(TextTrainConfig(init_from="x", optimizer="adafactor", **{name: 0.5}))

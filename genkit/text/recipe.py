"""What the settings that are left open become: sizes and rates that suit the data, the budget and the machine.

The rules are short because they were measured; benchmarks/RESULTS.md has the runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genkit.runtime.manager import Runtime
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import count_parameters
from genkit.text.shape import model_shape
from genkit.text.trainconfig import PRESETS, TextTrainConfig
from genkit.training.schedule import Budget
from genkit.training.speed import matmul_rate

TOKENS_A_PARAMETER = 4  # that a budget must buy, or a smaller model learns more in it
EPOCHS_AT_PAR, EPOCHS = 12.0, (3.0, 40.0)  # where there are as many tokens as parameters; fewest, most
_EPOCHS_FOR_DROPOUT = 10.0  # a dropout of 0.2 makes three times as many useful
_EFFICIENCY = 0.4  # share of the matmul rate that a training step reaches
_WORTH_COMPILING = 540.0  # seconds; compiling takes half a minute of them and saves a quarter
# of a batch, for each number of the width: enough to pay for Muon, few enough for many steps
_BATCH_ON_CPU, _BATCH_ON_ACCELERATOR = 32, 64
_FINE_TUNING_TOKENS = 8192  # of a batch, at most
_FEWEST_ROWS = 4


# the settings that `settle` fills in, and what leaves them open
LEFT_OPEN: dict[str, Any] = {
    "preset": "auto", "max_epochs": 0.0, "optimizer": "auto", "lr": 0.0, "batch_size": 0, "compile": None,
    "dropout": None, "schedule": "auto",
}  # fmt: skip


def as_begun(config: TextTrainConfig, record: Mapping[str, Any]) -> TextTrainConfig:
    """`config` with what it leaves open as it was settled when the run of `record` began."""
    began = record.get("config")
    if not isinstance(began, dict):
        return config
    values = config.to_dict()
    return config.replace(**{n: began[n] for n, left in LEFT_OPEN.items() if values[n] == left and n in began})


def settle(
    config: TextTrainConfig,
    *,
    given: GPTConfig | None,
    vocab_size: int,
    tokens: int,
    runtime: Runtime,
) -> TextTrainConfig:
    """`config` with a value for every setting that it leaves open; equal on all ranks.

    Args:
        given: the shape of the model of `--init-from`, if there is one.
        vocab_size: of the tokenizer.
        tokens: of the training data, an epoch.
    """
    if config.dropout is None:
        config = config.replace(dropout=0.0)
    if config.schedule == "auto":
        config = config.replace(schedule="wsd")
    per_width = _BATCH_ON_CPU if runtime.device.type == "cpu" else _BATCH_ON_ACCELERATOR
    rate = matmul_rate(runtime) * _EFFICIENCY * runtime.ranks.world_size  # FLOP a second
    if given is None and config.preset == "auto":
        preset = auto_preset(config, rate, per_width=per_width, vocab_size=vocab_size, tokens=tokens)
        config = config.replace(preset=preset)
    shape = given or model_shape(config, vocab_size=vocab_size, eos_id=None)
    parameters = count_parameters(shape)
    if not config.max_epochs:
        config = config.replace(max_epochs=round(auto_epochs(config, tokens, parameters), 1))
    block_size = config.block_size or shape.block_size
    if config.optimizer == "auto":
        # Muon serves weights that it trained from the start; what AdamW trained, AdamW tunes
        config = config.replace(optimizer="muon" if given is None else "adamw")
    if not config.lr:
        config = config.replace(lr=auto_lr(config, shape, fine_tuning=given is not None))
    if not config.batch_size:
        batch_tokens = per_width * shape.n_embd
        if given is not None:
            batch_tokens = min(batch_tokens, _FINE_TUNING_TOKENS)
        config = config.replace(batch_size=auto_batch(batch_tokens // block_size, config, runtime.ranks.world_size))
    if config.compile is None:
        seconds = training_seconds(budget_of(config, tokens), rate, parameters, config.batch_size, block_size)
        config = config.replace(compile=seconds >= _WORTH_COMPILING)
    return config


def budget_of(config: TextTrainConfig, epoch: int) -> Budget:
    """When the run ends, for data of `epoch` tokens; `max_epochs` counts once it is settled.

    Raises:
        UsageError: two flags say when.
    """
    budget = Budget.of(budget=config.budget, steps=config.steps, units=config.tokens, unit="tokens")
    return budget.capped(math.ceil(config.max_epochs * epoch)) if config.max_epochs else budget


def auto_epochs(config: TextTrainConfig, tokens: int, parameters: int) -> float:
    """How often a model gains by seeing the same data; beyond, it learns it by heart, the sooner the larger it is."""
    fewest, most = EPOCHS
    epochs = EPOCHS_AT_PAR * math.sqrt(tokens / parameters) * (1 + _EPOCHS_FOR_DROPOUT * (config.dropout or 0.0))
    return max(fewest, min(most, epochs))


def auto_preset(config: TextTrainConfig, rate: float, *, per_width: int, vocab_size: int, tokens: int) -> str:
    """The largest preset that the budget, and the data, train on enough tokens.

    Args:
        rate: floating-point operations of training a second.
        per_width: tokens of a batch, for each number of the width.
        tokens: of the training data.
    """
    best = next(iter(PRESETS))
    for name in PRESETS:
        plain = config.replace(preset=name, n_head=None, n_kv_head=None)
        shape = model_shape(plain, vocab_size=vocab_size, eos_id=None)
        size = count_parameters(shape)
        rows = config.batch_size or max(_FEWEST_ROWS, per_width * shape.n_embd // shape.block_size)
        epochs = config.max_epochs or auto_epochs(config, tokens, size)
        budget = budget_of(config.replace(max_epochs=epochs), tokens)
        seconds = training_seconds(budget, rate, size, rows, shape.block_size)
        if rate * seconds / flops_a_token(size) >= TOKENS_A_PARAMETER * size:
            best = name
    return best


def auto_lr(config: TextTrainConfig, shape: GPTConfig, *, fine_tuning: bool) -> float:
    """AdamW's peak: beside Muon it is the embedding's; alone, and in fine-tuning, wide models take less."""
    if fine_tuning:
        narrow = 768 / shape.n_embd
        return 1e-3 * min(3.0, narrow) if config.lora else 1e-4 * min(10.0, narrow**2)
    if config.optimizer == "muon":
        return 2e-3
    return 2e-3 * math.sqrt(128 / max(128, shape.n_embd))


def auto_batch(rows: int, config: TextTrainConfig, world_size: int) -> int:
    """About `rows` sequences, so many that micro-batches and ranks share them evenly."""
    step = math.lcm(config.accumulate, world_size)
    return max(_FEWEST_ROWS // step, rows // step, 1) * step


def training_seconds(budget: Budget, rate: float, parameters: int, batch_size: int, block_size: int) -> float:
    """How long the budget trains such a model, about."""
    a_step = batch_size * block_size * flops_a_token(parameters) / rate
    return budget.steps_to_take(batch_size * block_size, a_step) * a_step


def flops_a_token(parameters: int) -> float:
    """Forward and backward, attention left out (Kaplan et al. 2020)."""
    return 6.0 * parameters

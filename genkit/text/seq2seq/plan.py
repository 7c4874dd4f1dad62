"""What a run on pairs would be, before it is one."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.recipe import budget_of
from genkit.text.seq2seq.batches import Batches, units
from genkit.text.seq2seq.data import prepare
from genkit.text.seq2seq.start import bounded, optimizers_of, settled, starting_point
from genkit.text.seq2seq.train import OUT_OF_MEMORY
from genkit.text.step import train_step
from genkit.text.trainconfig import TextTrainConfig

_TIMED = 3  # steps


def plan(config: TextTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_seq2seq` would do, found by doing a little of it; writes nothing.

    Returns:
        The data's counts, the model's size, and, from three timed steps, the throughput
        and what the budget buys.
    """
    budget_of(config, 1)  # refuses what contradicts itself before anything is read
    with memory_guard(OUT_OF_MEMORY):
        model = starting_point(config).model
        config = bounded(config, model)
        pairs = prepare(config, model)
        config = settled(config, model, pairs)
        model.to(runtime.device).train()
        optimizers = optimizers_of(model, config)
        batches = Batches(pairs, batch_size=config.batch_size, seed=config.seed)
        seconds, tokens = 0.0, 0
        for step in range(1 + _TIMED):  # the first one warms up
            x, y = batches(step)
            before = time.monotonic()
            train_step(
                model, model, optimizers, x, y, runtime,
                parts=config.accumulate, grad_clip=config.grad_clip, step=step,
            )  # fmt: skip
            if step:
                seconds, tokens = seconds + time.monotonic() - before, tokens + units(x, y)
    budget = budget_of(config, pairs.tokens_per_epoch)
    a_step, per_step = seconds / _TIMED, max(1, tokens // _TIMED)
    steps = budget.steps_to_take(per_step, a_step)
    return {
        "data": pairs.line(),
        "model": model.line(),
        "parameters": model.num_parameters(),
        "training_pairs": sum(map(len, pairs.train)),
        "validation_pairs": len(pairs.val),
        "cut_sources": pairs.cut_sources,
        "cut_targets": pairs.cut_targets,
        "training_tokens": pairs.tokens(np.concatenate(pairs.train)),
        "validation_tokens": pairs.tokens(pairs.val),
        "tokens_per_step": per_step,
        "tokens_per_second": round(tokens / seconds),
        "steps": steps,
        "epochs": round(steps * config.batch_size / pairs.pairs_per_epoch, 2),
        "eta_seconds": round(min(budget.seconds or math.inf, steps * a_step)),
        "config": config.to_dict(),
    }

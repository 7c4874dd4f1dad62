"""What a classifier's run would be, before it is one."""

from __future__ import annotations

import math
import time
from typing import Any

import torch.nn.functional as F

from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.data import Rows, prepare
from genkit.text.classify.labelled import counts
from genkit.text.classify.start import budget_of, optimizer_of, settle, starting_point
from genkit.text.classify.train import OUT_OF_MEMORY
from genkit.text.step import train_step


def plan(config: ClassifyTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_classifier` would do, found by doing four steps of it and writing nothing.

    Returns:
        The data's counts, the model, and what the budget buys.
    """
    budget_of(config, 1)  # refuses what contradicts itself before anything is read
    with memory_guard(OUT_OF_MEMORY):
        data = prepare(config)
        model = starting_point(config, data.classes).model.to(runtime.device).train()
        config = settle(config, model)
        rows, optimizers, seconds = Rows(model, data.train, config.seed), optimizer_of(model, config), []
        for step in range(4):  # the first one warms up
            before = time.monotonic()
            x, y = rows.batch(step, config.batch_size)
            train_step(
                model, lambda ids, labels: F.cross_entropy(model(ids).float(), labels), optimizers, x, y, runtime,
                parts=1, grad_clip=config.grad_clip, step=step,
            )  # fmt: skip
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3
    budget = budget_of(config, len(data.train))
    steps = budget.steps_to_take(config.batch_size, a_step)
    return {
        "data": data.line(),
        "classes": counts(data.train, data.classes),
        "model": config.init_from,
        "parameters": model.num_parameters(),
        "training_examples": len(data.train),
        "validation_examples": len(data.val),
        "examples_per_second": round(config.batch_size / a_step),
        "steps": steps,
        "epochs": round(steps * config.batch_size / len(data.train), 2),
        "eta_seconds": round(min(budget.seconds or math.inf, steps * a_step)),
        "config": config.to_dict(),
    }

"""What a run would be, before it is one."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.data import prepare
from genkit.text.models.gpt import GPT
from genkit.text.recipe import budget_of
from genkit.text.shape import shape_line
from genkit.text.start import check_fit, corpus_shape, optimizers_of, settled, starting_point
from genkit.text.step import OUT_OF_MEMORY, train_step, training_batch
from genkit.text.trainconfig import TextTrainConfig


def plan(config: TextTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_text` would do, found by doing a little of it in a temporary folder.

    Returns:
        The data's counts, the model's shape, and, from three timed steps, the
        throughput and what the budget buys.
    """
    budget_of(config, 1)  # refuses what contradicts itself before anything is read
    with tempfile.TemporaryDirectory(prefix="genkit-") as folder, memory_guard(OUT_OF_MEMORY):
        start = starting_point(config)
        corpus = prepare(config, Path(folder), start.tokenizer)
        config = settled(config, start, corpus, runtime)
        model = start.model or GPT(corpus_shape(config, corpus), config.dropout or 0.0)
        model.to(runtime.device).train()
        check_fit(config, model, corpus)
        optimizers = optimizers_of(model, config, runtime)
        seconds = []
        for step in range(4):  # the first one warms up
            before = time.monotonic()
            x, y = training_batch(config, model, corpus, step)
            train_step(
                model, model.loss, optimizers, x, y, runtime,
                parts=config.accumulate, grad_clip=config.grad_clip, step=step,
            )  # fmt: skip
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3
    budget = budget_of(config, corpus.tokens_per_epoch)
    steps = budget.steps_to_take(x.numel(), a_step)
    return {
        "data": corpus.line(),
        "model": shape_line(model.config, model.num_parameters(), model.num_parameters(trained=True)),
        "parameters": model.num_parameters(),
        "training_tokens": len(corpus.train),
        "validation_tokens": corpus.tokens_val,
        "tokens_per_step": x.numel(),
        "tokens_per_second": round(x.numel() / a_step),
        "steps": steps,
        "epochs": round(steps * x.numel() / corpus.tokens_per_epoch, 2),
        "eta_seconds": round(min(budget.seconds or math.inf, steps * a_step)),
        "config": config.to_dict(),
    }

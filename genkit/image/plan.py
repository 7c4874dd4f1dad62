"""What a run would be, before it is one."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from genkit.image.batch import play, training_batch
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare
from genkit.image.models.store import model_line, parameter_count
from genkit.image.recipe import budget_of, settle, shape_of
from genkit.image.start import OUT_OF_MEMORY, begin
from genkit.runtime.manager import Runtime, memory_guard


def plan(config: GANTrainConfig, runtime: Runtime) -> dict[str, Any]:
    """What `train_gan` would do, found by doing a little of it in a temporary folder.

    Returns:
        The data's counts, the networks' size, and, from three timed steps, the
        throughput and what the budget buys.
    """
    budget = budget_of(config)
    with tempfile.TemporaryDirectory(prefix="genkit-") as folder, memory_guard(OUT_OF_MEMORY):
        store = prepare(config, Path(folder))
        config = settle(config, store.report, runtime)
        game, _, _ = begin(config, shape_of(config, store.classes), runtime)
        seconds = []
        for step in range(4):  # the first one warms up
            before = time.monotonic()
            play(game, training_batch(config, store, step), runtime, step)
            seconds.append(time.monotonic() - before)
    a_step = sum(seconds[1:]) / 3
    steps = budget.steps_to_take(config.batch_size, a_step)
    return {
        "data": store.report.line(),
        "report": store.report.facts(),
        "model": model_line(game.generator, game.discriminator),
        "parameters": parameter_count(game.generator),
        "training_images": store.report.count,
        "unreadable_images": len(store.report.bad),
        "images_per_step": config.batch_size,
        "images_per_second": round(config.batch_size / a_step, 1),
        "steps": steps,
        "epochs": round(steps * config.batch_size / store.report.count, 2),
        "eta_seconds": round(budget.seconds or steps * a_step),
        "warnings": store.report.warnings(config.batch_size),
        "config": config.to_dict(),
    }

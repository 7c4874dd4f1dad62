"""A trained classifier against labelled texts that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.classify.data import encoded, numbers
from genkit.text.classify.labelled import check_known, read_examples
from genkit.text.classify.measures import Measures, measure
from genkit.text.classify.predict import BATCH, load_classifier, logits_of
from genkit.text.evalconfig import EvalConfig


def evaluate_classifier(
    config: EvalConfig,
    folder: Path,
    runtime: Runtime,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Measures:
    """Measure the classifier in `folder` on `config.data`.

    Args:
        on_progress: called after each batch with how many texts are done, and how many there are.

    Raises:
        InputError: data or model refused, or a label that is none of the model's classes.
        ResourceError: the memory does not suffice.
    """
    examples = read_examples(
        config.data, text_field=config.text_field, label_field=config.label_field, pair_field=config.pair_field
    )
    with memory_guard("lower --batch-size, or use --device cpu"):
        model = load_classifier(folder)
        check_known(examples, model.classes, str(folder))
        model.to(runtime.device).eval()
        logits = logits_of(
            model,
            encoded(model, examples),
            runtime,
            batch_size=config.batch_size or BATCH,
            on_progress=lambda done: on_progress(done, len(examples)),
        )
    return measure(model.classes, numbers(examples, model.classes), logits)

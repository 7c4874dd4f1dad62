"""`genkit train-classifier`."""

from __future__ import annotations

from typing import Any

import click

from genkit.cli.options import command, config_options, runtime_options
from genkit.cli.training import run_training, training_options
from genkit.text.classify.config import ClassifyTrainConfig

EXAMPLES = """
genkit train-classifier --data labelled.jsonl --out run
genkit train-classifier --data reviews.csv --text-field review --label-field stars --budget 5m --out run
genkit train-classifier --data pairs.tsv --pair-field hypothesis --init-from hf:google-bert/bert-base-uncased --out run
genkit train-classifier --resume --out run
genkit eval run --data heldout.jsonl
"""


@command("train-classifier", EXAMPLES)
@config_options(ClassifyTrainConfig)
@training_options
@runtime_options("train-classifier")
@click.pass_context
def train_classifier(ctx: click.Context, /, **values: Any) -> None:
    """Teach a language model to name the class of a text, and leave a model directory.

    --data has a text and its label a line: {"text": "...", "label": "..."}, or the columns
    of a csv or tsv file. A new head reads the model's state at one token of the text, and all
    weights are trained. A share of each class is held out, and the model that has the best
    macro F1 there is kept. The directory loads with `genkit classify -m RUN` and, as
    AutoModelForSequenceClassification, with transformers. Without --budget, --steps or
    --epochs the data is seen three times. Ctrl-C saves and stops; --resume goes on.
    """
    run_training(ctx, ClassifyTrainConfig, task="train-classifier")

"""`genkit train-text`."""

from __future__ import annotations

from typing import Any

import click

from genkit.cli.options import command, config_options, runtime_options
from genkit.cli.training import run_training, training_options
from genkit.text.trainconfig import TextTrainConfig

EXAMPLES = """
genkit train-text --data book.txt --out run
genkit train-text --data corpus/ --data more.jsonl.gz --preset baby --budget 2h --out run
genkit train-text --data pairs.tsv --init-from hf:t5-small --source-prefix "translate English to German: " --out run
genkit train-text --resume --out run
genkit train-text --data book.txt --steps 500 --dry-run
"""


@command("train-text", EXAMPLES)
@config_options(TextTrainConfig)
@training_options
@runtime_options("train-text")
@click.pass_context
def train_text(ctx: click.Context, /, **values: Any) -> None:
    """Train a GPT on text files, or a T5, BART or Marian model on pairs; leave a model directory.

    It loads with `genkit text -m RUN` and with the transformers library. Without
    --budget, --steps or --tokens it trains for ten minutes. Ctrl-C saves and stops;
    --resume goes on.
    """
    run_training(ctx, TextTrainConfig, task="train-text")

"""`genkit eval`."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.options import chosen, command, config_options, runtime_options
from genkit.cli.terminal import Terminal, is_terminal, write
from genkit.errors import InputError, UsageError
from genkit.runtime.device import resolve
from genkit.text.evalconfig import EvalConfig

if TYPE_CHECKING:
    from genkit.cli.ui import LineBar
    from genkit.text.evaluate import Evaluation

INTERVAL = 10.0  # seconds between two plain lines

EXAMPLES = """
genkit eval story --data book.txt
genkit eval run --data heldout/ --json | jq .bits_per_byte
genkit eval hf:openai-community/gpt2 --data book.txt --block-size 512 --stride 512
"""


@command("eval", EXAMPLES)
@click.argument("model", metavar="MODEL", shell_complete=by_metavar)
@config_options(EvalConfig)
@runtime_options("eval")
@click.pass_context
def eval(ctx: click.Context, /, model: str, device: str, precision: str, engine: str, **values: Any) -> None:
    """Measure how well a text MODEL predicts text that it has not seen.

    Prints the loss in nats a token, the perplexity, and bits per byte, which compares
    across tokenizers. Every token is scored once, by a window that slides on by --stride
    and so shows at least window - stride tokens before each, but at the beginning.

    The documents follow one another as in training: each ends with an end-of-text token,
    which is scored too, and windows cross into the next. The first token is scored after
    an end-of-text token. In .txt files a line <|endoftext|> ends a document; in jsonl, csv
    and parquet a record is one. Of conversations the answers alone are scored.
    """
    terminal: Terminal = ctx.obj
    config, _ = chosen(ctx, EvalConfig)
    folder = _text_model(model)
    if not config.data:
        raise UsageError("--data is missing", f"see {ctx.command_path} --help")
    for path in config.data:
        if not Path(path).exists():
            raise InputError(f"--data {path}: no such file or folder", "check the path")
    placed = resolve(device, precision, engine, task="eval")
    terminal.detail(f"{folder} on {placed.device} in {placed.precision} by {placed.engine} ({placed.why})")

    from genkit.runtime.manager import Runtime
    from genkit.text.evaluate import evaluate_model

    runtime = Runtime(placed)
    report = _Report(terminal)
    try:
        with runtime.settings():
            found = evaluate_model(config, folder, runtime, report.update)
    finally:
        report.close()
    if found.unknown:
        terminal.note(
            f"warning: {found.unknown:,} of {found.tokens:,} tokens stand for characters that the tokenizer of {model} "
            "has not, so the figures do not compare with those of other models"
        )
    if terminal.json:
        facts = {"model": model, "data": config.data, **asdict(found)}
        facts |= {"device": placed.device, "precision": placed.precision}
        write(json.dumps(facts, ensure_ascii=False) + "\n")
    else:
        write(_lines(found, f"{model} on {placed.device} in {placed.precision}"))


def _text_model(name: str) -> Path:
    """The folder of a model that can be evaluated.

    Raises:
        InputError: no such model, an image model, or a .gguf file.
    """
    path = library.find(name)
    if library.kind(path) == "image":
        raise InputError(f"{name} is an image model", "genkit eval measures text models")
    if path.is_file():
        raise InputError(f"{name}: a .gguf file is not evaluated", "name the model directory that it was made from")
    return path


class _Report:
    """How far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._started = self._said = time.monotonic()
        self._bar: LineBar | None = None
        if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not terminal.quiet:
            from genkit.cli.ui import LineBar

            self._bar = LineBar(color=terminal.colored(sys.stderr))

    def update(self, fraction: float, tokens: int, loss: float) -> None:
        now = time.monotonic()
        rate = tokens / max(now - self._started, 1e-9)
        text = f"{tokens:,} tokens, {rate:,.0f} tokens/s  loss {loss:.4f}"
        if self._bar is not None:
            self._bar.update(fraction, text)
        elif now - self._said >= INTERVAL:
            self._said = now
            self._terminal.note(f"{fraction:4.0%}  {text}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _lines(found: Evaluation, where: str) -> str:
    rows = {
        "loss": f"{found.loss:.4f} nats a token",
        "perplexity": f"{found.perplexity:,.4g}" if found.perplexity < 1e4 else f"{found.perplexity:.4g}",
        "bits per byte": f"{found.bits_per_byte:.4f}",
        "scored": f"{_count(found.tokens, 'token')}, {found.end_of_text:,} of them end-of-text; "
        f"{_count(found.bytes, 'byte')} in {_count(found.documents, 'document')}"
        + (f", answers alone in the {_count(found.conversations, 'conversation')}" if found.conversations else ""),
        "window": f"{found.window:,} tokens, stride {found.stride:,}: "
        f"{found.context_min:,} or more before each token, but at the beginning",
        "model": where,
    }
    return "".join(f"{name:<15}{value}\n" for name, value in rows.items())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"

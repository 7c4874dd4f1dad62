"""`genkit eval`."""

from __future__ import annotations

import itertools
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genkit import library
from genkit.cli.classifiereval import evaluate_classifier, refuse_labels
from genkit.cli.completion import by_metavar
from genkit.cli.generationeval import evaluate_generation, is_about_generation
from genkit.cli.imageeval import evaluate_images
from genkit.cli.options import chosen, command, config_options, option, runtime_options
from genkit.cli.terminal import Terminal, is_terminal, write, write_json
from genkit.config import Config, flag_name, options
from genkit.errors import InputError, UsageError
from genkit.image.evalconfig import ImageEvalConfig
from genkit.runtime.device import resolve
from genkit.text.evalconfig import EvalConfig
from genkit.text.metrics.config import GenerationEvalConfig

if TYPE_CHECKING:
    from genkit.cli.ui import LineBar
    from genkit.text.evaluate import Evaluation

INTERVAL = 10.0  # seconds between two plain lines

EXAMPLES = """
genkit eval story --data book.txt
genkit eval run --data heldout/ --json | jq .bits_per_byte
genkit eval hf:openai-community/gpt2 --data book.txt --block-size 512 --stride 512
genkit eval classifier-run --data labelled.jsonl
genkit eval translator --data pairs.jsonl --metric bleu,chrf
genkit eval kittens --data photos/
genkit eval run --data photos.zip --n 5000 --json | jq .metrics.kd_efflite0
genkit eval --fetch-inception
"""


@command("eval", EXAMPLES)
@click.argument("model", metavar="MODEL", required=False, shell_complete=by_metavar)
@config_options(EvalConfig)
@config_options(GenerationEvalConfig)
@config_options(ImageEvalConfig)
@option(
    "--fetch-inception",
    section="Image models",
    is_flag=True,
    help="Download the file that FID and KID need, 96 MB, and check it; without MODEL that is all.",
)
@runtime_options("eval", also=("onnx",))
@click.pass_context
def eval(
    ctx: click.Context,
    /,
    model: str | None,
    fetch_inception: bool,
    device: str,
    precision: str,
    engine: str,
    **values: Any,
) -> None:
    """Measure how good a MODEL is on data that it has not seen.

    A text model: the loss in nats a token, the perplexity, and bits per byte, which
    compares across tokenizers. Every token is scored once, by a window that slides on by
    --stride and so shows at least window - stride tokens before each, but at the beginning.
    The documents follow one another as in training: each ends with an end-of-text token,
    which is scored too, and windows cross into the next. The first token is scored after
    an end-of-text token. In .txt files a line <|endoftext|> ends a document; in jsonl, csv
    and parquet a record is one. Of conversations the answers alone are scored.

    A sequence-to-sequence model, and with --metric any text model: what it generates from
    the sources of pairs, against their targets, as genkit score measures it.

    A classifier: accuracy, F1 and the confusion matrix on labelled texts, as
    genkit train-classifier reads them.

    An image model: how far --n of its images are from as many of --data, and beside each
    figure how far as many others of the data are from these, which is what a perfect model
    would come to. FD and KD (0 is best), precision and recall (1 is best) compare features
    of EfficientNet-Lite0; where the Inception file is, FID and KID are printed too. SWD is
    the sliced Wasserstein distance of patches, diversity the difference between two images,
    nearest that to the nearest image of the data.
    """
    terminal: Terminal = ctx.obj
    report = _Report(terminal)
    try:
        if fetch_inception:
            from genkit.image.inception import fetch

            where = fetch(lambda fraction, done: report.update(fraction, f"{done / 1e6:,.0f} MB"))
            if model is None:
                write_json({"inception": str(where)}) if terminal.json else write(f"{where}\n")
                return
        if model is None:
            raise UsageError("MODEL is missing", f"see {ctx.command_path} --help")
        folder = library.find(model)
        kind = library.kind(folder)
        if folder.is_file():
            raise InputError(
                f"{model}: a .gguf file is not evaluated", "name the model directory that it was made from"
            )
        if not ctx.params["data"]:
            raise UsageError("--data is missing", f"see {ctx.command_path} --help")
        _check_flags(ctx, kind)
        if kind == "image":
            evaluate_images(ctx, model, report.update, device=device, precision=precision, engine=engine)
        elif library.family(folder) == "classifier":
            evaluate_classifier(ctx, model, folder, report.update, device=device, precision=precision, engine=engine)
        elif is_about_generation(ctx, folder):
            evaluate_generation(ctx, model, report.update, device=device, precision=precision, engine=engine)
        else:
            refuse_labels(ctx)
            _evaluate_text(ctx, model, folder, report, device=device, precision=precision, engine=engine)
    finally:
        report.close()


def _check_flags(ctx: click.Context, kind: str) -> None:
    """Raise UsageError for settings of the other kind of model."""
    texts: tuple[type[Config], ...] = (EvalConfig, GenerationEvalConfig)
    own, other = ((ImageEvalConfig,), texts) if kind == "image" else (texts, (ImageEvalConfig,))
    shared = {field.name for each in own for field, _ in options(each)} | {"data"}
    for field, _ in itertools.chain(*map(options, other)):
        given = ctx.get_parameter_source(field.name) not in (ParameterSource.DEFAULT, None)
        if given and field.name not in shared:
            raise UsageError(f"{flag_name(field)} is not for {kind} models", f"see {ctx.command_path} --help")


def _evaluate_text(
    ctx: click.Context, model: str, folder: Path, report: _Report, *, device: str, precision: str, engine: str
) -> None:
    terminal: Terminal = ctx.obj
    config, _ = chosen(ctx, EvalConfig)
    for path in config.data:
        if not Path(path).exists():
            raise InputError(f"--data {path}: no such file or folder", "check the path")
    placed = resolve(device, precision, engine, task="eval")
    terminal.detail(f"{folder} on {placed.device} in {placed.precision} by {placed.engine} ({placed.why})")

    from genkit.runtime.manager import Runtime
    from genkit.text.evaluate import evaluate_model

    runtime = Runtime(placed)
    with runtime.settings():
        found = evaluate_model(config, folder, runtime, report.scored)
    report.close()
    if found.unknown:
        terminal.note(
            f"warning: {found.unknown:,} of {found.tokens:,} tokens stand for characters that the tokenizer of {model} "
            "has not, so the figures do not compare with those of other models"
        )
    if terminal.json:
        facts = {"model": model, "data": config.data, **asdict(found)}
        facts |= {"device": placed.device, "precision": placed.precision}
        write_json(facts)
    else:
        write(_lines(found, f"{model} on {placed.device} in {placed.precision}"))


class _Report:
    """How far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._started = self._said = time.monotonic()
        self._bar: LineBar | None = None
        if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not terminal.quiet:
            from genkit.cli.ui import LineBar

            self._bar = LineBar(color=terminal.colored(sys.stderr))

    def scored(self, fraction: float, tokens: int, loss: float) -> None:
        """Tokens of a text."""
        rate = tokens / max(time.monotonic() - self._started, 1e-9)
        self.update(fraction, f"{tokens:,} tokens, {rate:,.0f} tokens/s  loss {loss:.4f}")

    def update(self, fraction: float, text: str) -> None:
        now = time.monotonic()
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

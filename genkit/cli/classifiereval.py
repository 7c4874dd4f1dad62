"""`genkit eval` of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genkit.cli.options import chosen
from genkit.cli.terminal import Terminal, one_line, write, write_json
from genkit.config import flag_name, options
from genkit.errors import UsageError
from genkit.runtime.device import resolve
from genkit.text.evalconfig import EvalConfig

if TYPE_CHECKING:
    from genkit.text.classify.measures import Measures

_OWN = {"data", "text_field", "label_field", "pair_field", "batch_size"}
_WIDEST = 20  # characters of a class's name in the tables
_CORNER = "is \\ called"
_MOST_CLASSES = 12  # whose confusion fits a screen


def evaluate_classifier(
    ctx: click.Context,
    model: str,
    folder: Path,
    report: Callable[[float, str], None],
    *,
    device: str,
    precision: str,
    engine: str,
) -> None:
    """Print accuracy, F1 and the confusion matrix of the classifier in `folder` on --data.

    Args:
        report: is told the share that is done, and a word on it.

    Raises:
        UsageError: settings that are about other models.
        InputError: data or model refused, or a label that the model does not know.
    """
    terminal: Terminal = ctx.obj
    config, _ = chosen(ctx, EvalConfig)
    for field, _ in options(EvalConfig):
        given = ctx.get_parameter_source(field.name) not in (ParameterSource.DEFAULT, None)
        if given and field.name not in _OWN:
            raise UsageError(f"{flag_name(field)} is not for classifiers", f"see {ctx.command_path} --help")
    placed = resolve(device, precision, engine, task="eval")
    terminal.detail(f"{folder} on {placed.device} in {placed.precision} by {placed.engine} ({placed.why})")

    from genkit.runtime.manager import Runtime
    from genkit.text.classify.evaluate import evaluate_classifier as evaluate

    runtime = Runtime(placed)
    with runtime.settings():
        found = evaluate(config, folder, runtime, lambda done, of: report(done / of, f"{done:,} texts"))
    if terminal.json:
        facts: dict[str, Any] = {"model": model, "data": config.data, **found.to_dict()}
        write_json(facts | {"device": placed.device, "precision": placed.precision})
    else:
        write(_text(found, f"{model} on {placed.device} in {placed.precision}"))


def refuse_labels(ctx: click.Context) -> None:
    """Raise UsageError for settings of classifiers where the model is none."""
    for field, _ in options(EvalConfig):
        given = ctx.get_parameter_source(field.name) not in (ParameterSource.DEFAULT, None)
        if given and field.name in ("label_field", "pair_field"):
            raise UsageError(f"{flag_name(field)} is for classifiers", f"{ctx.params['model']} is none; leave it out")


def _text(found: Measures, where: str) -> str:
    rows = {
        "accuracy": f"{found.accuracy:.4f}, which is the micro F1 too",
        "macro F1": f"{found.macro_f1:.4f}",
        "majority": f"{found.majority:.4f} would be the accuracy of always naming the most frequent class",
        "loss": f"{found.loss:.4f} nats",
        "texts": f"{found.examples:,}",
        "model": where,
    }
    text = "".join(f"{name:<15}{value}\n" for name, value in rows.items())
    return text + "\n" + _by_class(found) + ("\n" + _confusion(found) if len(found.classes) <= _MOST_CLASSES else "")


def _by_class(found: Measures) -> str:
    wide = _wide(found)
    lines = [f"{'class':<{wide}}  precision  recall      F1   texts\n"]
    for i, name in enumerate(found.classes):
        figures = (
            f"{found.precision[i]:9.4f}  {found.recall[i]:6.4f}  {found.f1[i]:6.4f}  {found.confusion[i].sum():6,}"
        )
        lines.append(f"{_short(name):<{wide}}  {figures}\n")
    return "".join(lines)


def _confusion(found: Measures) -> str:
    """Rows are what the texts are, columns what they were called."""
    wide = _wide(found)
    column = max(wide, len(f"{found.confusion.max():,}"))
    lines = [f"{_CORNER:<{wide}}" + "".join(f"  {_short(name):>{column}}" for name in found.classes) + "\n"]
    for name, row in zip(found.classes, found.confusion, strict=True):
        lines.append(f"{_short(name):<{wide}}" + "".join(f"  {count:>{column},}" for count in row) + "\n")
    return "".join(lines)


def _short(name: str) -> str:
    text = one_line(name)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _wide(found: Measures) -> int:
    return max(len(_CORNER), *(len(_short(name)) for name in found.classes))

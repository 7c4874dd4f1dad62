"""What `train-text`, `train-gan` and `train-classifier` share."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import click

from genkit import library
from genkit.cli.options import chosen, option
from genkit.cli.terminal import Terminal, check_preview, flat, is_terminal, one_line, write, write_json
from genkit.config import Config
from genkit.errors import InputError, UsageError
from genkit.files import read_json
from genkit.runtime.device import PRECISIONS, resolve

TrainTask = Literal["train-text", "train-gan", "train-classifier"]

_BUDGETS = ("budget", "steps", "tokens", "images", "epochs")
_MAKES = {"train-text": "text", "train-gan": "image", "train-classifier": "classifier"}
_TRY = {
    "train-text": "sample it: genkit text -m {} 'Once'",
    "train-gan": "sample it: genkit image -m {} --n 16 --out grid.png",
    "train-classifier": "try it: genkit classify -m {} 'some text'",
}
_TRY_PAIRS = "try it: genkit text -m {} 'some text'"  # like the sources that it was trained on


def training_options(function: Any) -> Any:
    """`--resume`, `--force` and `--dry-run`."""
    for flag, text in (
        ("--dry-run", "Say what would be trained and how long it would take; write nothing."),
        ("--force", "Start anew in a run directory that exists."),
        ("--resume", "Continue the run in --out with its own settings."),
    ):
        function = option(flag, section="Run", is_flag=True, help=text)(function)
    return function


def run_training(ctx: click.Context, cls: type[Config], *, task: TrainTask) -> None:
    """Train as the command's flags say. Prints the run's path to stdout."""
    terminal: Terminal = ctx.obj
    flags = ctx.params
    preview = flags.get("preview", False)
    if preview:
        check_preview(terminal)
        if flags["dry_run"]:
            raise UsageError("--dry-run draws nothing that --preview could show", "leave --preview out")
    _check_ranks(flags["dry_run"])
    if flags["resume"] and flags["force"]:
        raise UsageError("--resume and --force contradict each other", "--resume continues, --force starts anew")
    config, set_by_user = chosen(ctx, cls)
    precision = flags["precision"]
    if flags["resume"]:
        config, began_in = _resumed(config, set_by_user, task)
        precision = began_in if precision == "auto" else precision
    values = config.to_dict()
    _check_data(values["data"], ctx.command_path)
    placement = resolve(flags["device"], precision, flags["engine"], task=task)
    terminal.detail(f"training on {placement.device} in {placement.precision}: {placement.why}")

    from genkit.cli import STARTED, ui
    from genkit.runtime.manager import Runtime
    from genkit.training.curves import METRICS
    from genkit.training.log import short

    train, plan = _trainer(task, Path(values["out"]) if flags["resume"] else values.get("init_from"))
    if "triton" not in sys.modules:  # whose bindings, frozen, would report at exit that they leaked
        gc.freeze()  # what the imports made stays: the collector need not go through it, now or at exit
    with Runtime(placement, seed=values["seed"]) as runtime:
        if flags["dry_run"]:
            found = plan(config, runtime)
            write_json(found, indent=2) if terminal.json else write(_plan_text(found))
            return
        logger = ui.training_logger(terminal, preview=preview) if runtime.is_main else ui.SilentLogger()
        try:
            report = train(config, runtime, logger, resume=flags["resume"], force=flags["force"], started=STARTED)
        finally:
            logger.close()
    if not runtime.is_main:
        return
    for warning in report.warnings:
        terminal.note(f"warning: {one_line(warning)}")
    terminal.note(
        f"trained {report.steps:,} step{'s' * (report.steps != 1)} on {short(report.seen)} {report.unit} "
        f"in {ui.clock(report.seconds)}  {ui.numbers(report.metrics)}"
    )
    shown = not terminal.quiet and (terminal.verbose or is_terminal(sys.stderr))
    if shown and (drawn := ui.learning_curves(report.out / METRICS, terminal, sys.stderr)):
        terminal.note(drawn.rstrip("\n"))
    for line in report.verdict:
        terminal.note(line)
    if terminal.json:
        facts = {f.name: getattr(report, f.name) for f in fields(report)} | {"out": str(report.out)}
        write_json(facts)
    else:
        write(f"{report.out}\n")
    answers = task == "train-text" and library.family(report.out) == "seq2seq"
    terminal.note((_TRY_PAIRS if answers else _TRY[task]).format(shlex.quote(str(report.out))))


def _check_ranks(dry_run: bool) -> None:
    """A dry run on several processes is refused: each would do, and say, the same."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if dry_run and ranks not in ("", "1"):
        raise UsageError(f"WORLD_SIZE={ranks}: --dry-run does not run on several processes", "run it without torchrun")


def _check_data(data: str | Sequence[str] | None, command: str) -> None:
    """What needs no torch to be refused is refused at once."""
    if not data:
        raise UsageError("--data is missing", f"see {command} --help")
    from genkit.image.sources import NAMED
    from genkit.text.sources import parse_sources

    if not isinstance(data, str):
        parse_sources(data)
    elif not data.startswith(NAMED) and not Path(data).exists():
        raise InputError(f"--data {data}: no such file or folder", "check the path")


def _plan_text(plan: dict[str, Any]) -> str:
    """What `--dry-run` found, one fact a line."""
    return "".join(one_line(f"{name}: {value}") + "\n" for name, value in flat(plan))


def _resumed(config: Config, set_by_user: frozenset[str], task: TrainTask) -> tuple[Config, str]:
    """The settings that the run began with, what the user gives now over them, and its precision."""
    now = config.to_dict()
    changes = {name: now[name] for name in set_by_user}
    out = Path(now["out"])
    if not (out / library.RECORD).is_file():
        if (out / library.RUN_MARK).is_file():  # its data, perhaps its first checkpoint, but no settings
            raise InputError(f"{out} ended before it had saved", "start it anew with --force")
        raise InputError(f"{out} is no run that can be resumed", "name one with --out, or leave --resume out")
    record = read_json(out / library.RECORD)
    kind, saved = record.get("kind"), record.get("config")
    if not isinstance(saved, dict):
        raise InputError(f"{out / library.RECORD} has no settings to resume with", "start anew with another --out")
    for other, makes in _MAKES.items():
        if kind == makes and other != task:
            raise InputError(f"{out} is a run of {other}", f"use genkit {other} --resume --out {shlex.quote(str(out))}")
    if isinstance(record.get("compressed"), dict):
        command = f"genkit compress --resume --out {shlex.quote(str(out))}"
        raise InputError(f"{out} is a run of genkit compress", f"use {command}")
    if set_by_user & {*_BUDGETS}:  # another budget replaces the old one, whatever its kind
        saved = {k: v for k, v in saved.items() if k not in _BUDGETS}
    hardware = record.get("hardware")
    began_in = hardware.get("precision") if isinstance(hardware, dict) else None
    return type(config).from_dict(saved | changes | {"out": now["out"]}), began_in if began_in in PRECISIONS else "auto"


def _trainer(task: TrainTask, given: Path | str | None) -> tuple[Any, Any]:
    """The functions that train and plan; `given` is the model that training starts from, or the run resumed."""
    if task == "train-text":
        folder = library.find(given) if isinstance(given, str) else given
        if folder is not None and folder.is_dir() and library.family(folder) == "seq2seq":
            from genkit.text.seq2seq.plan import plan as plan_seq2seq
            from genkit.text.seq2seq.train import train_seq2seq

            return train_seq2seq, plan_seq2seq
        from genkit.text.plan import plan
        from genkit.text.train import train_text

        return train_text, plan
    if task == "train-classifier":
        from genkit.text.classify.plan import plan as plan_classifier
        from genkit.text.classify.train import train_classifier

        return train_classifier, plan_classifier
    from genkit.image.plan import plan as plan_gan
    from genkit.image.train import train_gan

    return train_gan, plan_gan

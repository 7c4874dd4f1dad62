"""`genkit compress`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.options import chosen, command, config_options, option, runtime_options
from genkit.cli.terminal import Terminal, write, write_json
from genkit.config import flag_name, options
from genkit.errors import InputError, UsageError
from genkit.files import read_json
from genkit.runtime.device import resolve
from genkit.text.compressconfig import TRAINING, CompressConfig

if TYPE_CHECKING:
    from genkit.cli.comparison import Comparison

_MAY_CHANGE = {"budget", "steps", "tokens", "out", "eval_tokens"}

EXAMPLES = """
genkit compress story --quantize int8 --data heldout.txt --out story-int8
genkit compress run --prune 0.3 --data book.txt --out narrower
genkit compress run --prune 0.5 --data book.txt --budget 10m --out narrower
genkit compress run --distill-into half --data book.txt --budget 20m --out smaller
genkit compress --resume --out smaller
"""


@command("compress", EXAMPLES)
@click.argument("model", metavar="MODEL", required=False, shell_complete=by_metavar)
@config_options(CompressConfig)
@option("--force", section="Run", is_flag=True, help="Replace a compressed model, or when training a run, in --out.")
@option("--resume", section="Run", is_flag=True, help="Continue the run in --out with its own settings.")
@runtime_options("train-text")
@click.pass_context
def compress(
    ctx: click.Context,
    /,
    model: str | None,
    force: bool,
    resume: bool,
    device: str,
    precision: str,
    engine: str,
    **values: Any,
) -> None:
    """Make a cheaper model out of MODEL: fewer bits, fewer neurons, or a smaller one that learns from it.

    What comes out is a model directory like any other, which genkit text, eval, info and
    export take, and transformers too (with compressed-tensors where it is quantised).
    A table compares both: parameters, bytes, tokens a second as genkit text runs them
    here, and, where there is --data or --val-data, bits per byte.

    --distill-into, and --prune with a budget, train: a run directory that Ctrl-C leaves
    whole and --resume continues. The time to measure comes on top of the budget.
    """
    terminal: Terminal = ctx.obj
    config, set_by_user = chosen(ctx, CompressConfig)
    if resume and force:
        raise UsageError("--resume and --force contradict each other", "--resume continues, --force starts anew")
    if resume:
        model, config, began_in = _resumed(model, config, set_by_user)
        precision = began_in if precision == "auto" else precision
    config.method()
    if model is None:
        raise UsageError("MODEL is missing", f"see {ctx.command_path} --help")
    _check_flags(config, set_by_user)
    folder = library.find(model)
    placement = resolve(device, precision, engine, task="train-text")
    terminal.detail(f"on {placement.device} in {placement.precision}: {placement.why}")

    from genkit.cli import STARTED, ui
    from genkit.cli.comparison import compare
    from genkit.runtime.manager import Runtime
    from genkit.text.compress.run import compress as make

    with Runtime(placement, seed=config.seed) as runtime:
        logger = ui.training_logger(terminal)
        try:
            outcome = make(model, folder, config, runtime, logger, resume=resume, force=force, started=STARTED)
        finally:
            logger.close()
    found = compare((model, folder), (config.out, Path(config.out)), (outcome.before, outcome.after), device)
    if terminal.json:
        write_json(_facts(found, config))
    else:
        write(found.table())
    terminal.note(f"sample it: genkit text -m {shlex.quote(config.out)} 'Once'")


def _facts(found: Comparison, config: CompressConfig) -> dict[str, Any]:
    return {"out": config.out} | config.method() | {"before": found.before.facts(), "after": found.after.facts()}


def _check_flags(config: CompressConfig, set_by_user: frozenset[str]) -> None:
    """Raise UsageError for a setting of training where there is none, and for several processes."""
    if (ranks := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
        raise UsageError(f"WORLD_SIZE={ranks}: compress does not run on several processes", "run it without torchrun")
    if config.trains:
        config.training()  # refuses what has no text
        return
    for field, _ in options(CompressConfig):
        if field.name in TRAINING & set_by_user:
            raise UsageError(
                f"{flag_name(field)} is for training, and "
                + ("--quantize does not train" if config.quantize else "--prune trains with a budget only"),
                "leave it out" if config.quantize else "add --budget and --data",
            )
    if config.quantize and "val_fraction" in set_by_user:
        raise UsageError("--val-fraction holds out text, and --quantize learns from none", "leave it out")
    for path in config.measured:
        if not Path(path).exists():
            raise InputError(f"{path}: no such file or folder", "check the path")


def _resumed(model: str | None, config: CompressConfig, set_by_user: frozenset[str]) -> tuple[str, CompressConfig, str]:
    """The model and the settings that the run in --out began with, what may change over them, and its precision."""
    out = Path(config.out)
    record = read_json(out / library.RECORD) if (out / library.RECORD).is_file() else {}
    parts = [record.get(key) for key in ("compressed", "base", "config", "hardware")]
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{out} is no run of genkit compress that can be resumed", "name one with --out")
    method, base, saved, hardware = (dict(part) for part in parts if isinstance(part, dict))
    names = set(CompressConfig.__dataclass_fields__)
    began = {key: value for key, value in saved.items() if key in names}
    began |= {"prune": method.get("share"), "distill_into": method.get("into")}
    began["teacher_weight"] = method.get("teacher_weight")
    now = config.to_dict()
    for name in sorted(set_by_user - _MAY_CHANGE):
        if now[name] != began.get(name):
            flag = "--" + name.replace("_", "-")
            was = "not given" if began.get(name) is None else repr(began[name])
            raise UsageError(f"{flag} was {was} when this run began", f"leave {flag} out to resume")
    if set_by_user & {"budget", "steps", "tokens"}:  # another budget replaces the old one, whatever its kind
        began |= {"budget": None, "steps": None, "tokens": None}
    began |= {name: now[name] for name in set_by_user | {"out"}}
    return model or str(base.get("model")), CompressConfig.from_dict(began), str(hardware.get("precision", "auto"))

"""`genkit info`."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.models import summary
from genkit.cli.options import command, option
from genkit.cli.sampling import weights_hash
from genkit.cli.terminal import Terminal, flat, one_line, write, write_json
from genkit.errors import GenkitError, InputError, UsageError
from genkit.files import input_errors, open_regular, read_json
from genkit.runtime.device import Task, resolve

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".npz", ".mp4")
RESULTS = (".jsonl", ".jsonl.part")

EXAMPLES = """
genkit info story
genkit info run --json | jq .metrics
genkit info run --curves
genkit info model.gguf
genkit info grid.png
genkit info answers.jsonl
"""


@command("info", EXAMPLES)
@click.argument("target", metavar="MODEL|FILE", shell_complete=by_metavar)
@option("--curves", section="Run", is_flag=True, help="Draw the learning curves of a run, which may be going on.")
@click.pass_context
def info(ctx: click.Context, target: str, curves: bool) -> None:
    """Say what a model is: its shape, data, licence, training and metrics.

    For a picture that genkit drew: its seeds and the model that drew it. For the
    results of genkit text in a .jsonl file: how many there are and how they ended.
    """
    terminal: Terminal = ctx.obj
    if curves:
        write(_curves(target, terminal))
        return
    name = target.lower()
    if name.endswith(PICTURES):
        facts = _picture(Path(target))
    elif name.endswith(RESULTS):
        facts = _results(Path(target))
    else:
        facts = _model(target)
    if terminal.json:
        write_json(facts, indent=2)
    else:
        write("".join(f"{key}: {one_line(str(value))}\n" for key, value in flat(facts)))


def _curves(name: str, terminal: Terminal) -> str:
    """The learning curves of a run, drawn in characters."""
    from genkit.cli import ui
    from genkit.training.curves import METRICS

    metrics = library.find(name) / METRICS
    if terminal.json:
        raise UsageError("--curves draws, --json does not", f"the numbers are in {metrics}")
    if not metrics.is_file():
        raise InputError(f"{name} is no run: it has no {METRICS}", "name the directory that training wrote")
    drawn = ui.learning_curves(metrics, terminal, sys.stdout)
    if drawn is None:
        raise InputError(f"{metrics} has fewer than two points of a loss", "wait for more, if the run goes on")
    return drawn


def _model(name: str) -> dict[str, Any]:
    path = library.find(name)
    if path.is_dir():
        facts = summary(name, path)
        if facts["makes"] == "text":
            facts["family"] = library.family(path)
        facts["sha256"] = weights_hash(path)
        facts["config"] = read_json(path / library.CONFIG)
        if (path / library.RECORD).is_file():
            record = read_json(path / library.RECORD)
            facts |= {"training": record.get("config")}
            facts |= {key: record.get(key) for key in ("data", "trained", "metrics", "hardware", "genkit_version")}
    else:
        facts = _gguf(name, path)
    try:
        facts["here"] = asdict(resolve(task=_task(facts)))
    except GenkitError as error:
        facts["here"] = {"problem": str(error)}
    return facts


def _task(facts: dict[str, Any]) -> Task:
    """What such a model does here."""
    tasks: dict[str, Task] = {"causal": "hub", "seq2seq": "hub", "masked": "fill", "classifier": "classify"}
    makes: Task = "image" if facts["makes"] == "image" else "text"
    return tasks.get(facts.get("family", ""), makes)


def _gguf(name: str, path: Path) -> dict[str, Any]:
    """What the header of a GGUF file says; nothing is loaded."""
    from genkit.text.gguf.check import check_gguf

    header = check_gguf(path)
    return {
        "name": name,
        "makes": "text",
        "parameters": sum(math.prod(shape) for shape, _ in header.tensors.values()),
        "path": str(path),
        "sha256": weights_hash(path),
        "types": dict(Counter(kind for _, kind in header.tensors.values())),
        "fields": {key: _plain(value) for key, value in header.fields.items()},
    }


def _plain(value: Any) -> Any:
    """JSON has no name for NaN and the infinities."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _picture(path: Path) -> dict[str, Any]:
    from genkit.image.canvas import read_note

    with input_errors(path), open_regular(path) as file:
        note = read_note(file)
    if not note:
        raise InputError(f"{path} does not say how it was drawn", "genkit writes that into every picture it draws")
    return {"picture": str(path), **note}


def _results(path: Path) -> dict[str, Any]:
    """Counts over the lines of `text --format jsonl` or `--input`; one line is in memory at a time."""
    job: dict[str, Any] | None = None
    models, finish, seeds = Counter[str](), Counter[str](), set[int]()
    counts = dict.fromkeys(("lines", "refused", "torn", "samples", "tokens"), 0)
    with input_errors(path), open_regular(path) as file:
        for number, line in enumerate(file, 1):
            fact = _object(line)
            if fact is None and not line.endswith(b"\n"):
                counts["torn"] = 1  # it is being written, or its writer was killed
            elif fact is not None and "genkit_batch" in fact:
                job = fact
            elif fact is None or not ("error" in fact or "text" in fact or isinstance(fact.get("samples"), list)):
                raise InputError(
                    f"{path}: line {number} is no result of genkit text", "info reads .jsonl of genkit only"
                )
            else:
                counts["lines"] += 1
                counts["refused"] += "error" in fact
                models.update([str(fact["model"])] if "model" in fact else [])
                samples = fact["samples"] if "samples" in fact else [fact] * ("text" in fact)
                for sample in (s for s in samples if isinstance(s, dict)):
                    counts["samples"] += 1
                    counts["tokens"] += sample["tokens"] if isinstance(sample.get("tokens"), int) else 0
                    finish.update([str(sample.get("finish"))])
                    seeds.update([sample["seed"]] if isinstance(sample.get("seed"), int) else [])
    spread = {"least": min(seeds), "largest": max(seeds), "different": len(seeds)} if seeds else None
    found = {"results": str(path), **counts, "finish": dict(finish), "models": dict(models), "seeds": spread}
    return found | ({"job": job} if job else {})


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

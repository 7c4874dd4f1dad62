"""`genkit info`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.models import summary
from genkit.cli.options import command
from genkit.cli.sampling import weights_hash
from genkit.cli.terminal import Terminal, flat, one_line, write
from genkit.errors import GenkitError, InputError
from genkit.files import input_errors, open_regular, read_json
from genkit.runtime.device import resolve

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".npz", ".mp4")
BATCH = ".jsonl"

EXAMPLES = """
genkit info story
genkit info run --json | jq .metrics
genkit info model.gguf
genkit info grid.png
genkit info answers.jsonl
"""


@command("info", EXAMPLES)
@click.argument("target", metavar="MODEL|FILE", shell_complete=by_metavar)
@click.pass_context
def info(ctx: click.Context, target: str) -> None:
    """Say what a model is: its shape, data, licence, training and metrics.

    For a picture that genkit drew: its seeds and the model that drew it. For the
    lines of a batch: how many there are, their models and how they ended.
    """
    terminal: Terminal = ctx.obj
    suffix = Path(target).suffix.lower()
    if suffix in PICTURES:
        facts = _picture(Path(target))
    elif suffix == BATCH:
        facts = _batch(Path(target))
    else:
        facts = _model(target)
    if terminal.json:
        write(json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
    else:
        write("".join(f"{name}: {one_line(str(value))}\n" for name, value in flat(facts)))


def _model(name: str) -> dict[str, Any]:
    path = library.find(name)
    facts = summary(name, path)
    if path.is_dir():
        facts["sha256"] = weights_hash(path)
        facts["config"] = read_json(path / library.CONFIG)
        if (path / library.RECORD).is_file():
            record = read_json(path / library.RECORD)
            facts |= {"training": record.get("config")}
            facts |= {key: record.get(key) for key in ("data", "trained", "metrics", "hardware", "genkit_version")}
    try:
        facts["here"] = asdict(resolve(task=facts["makes"]))
    except GenkitError as error:
        facts["here"] = {"problem": str(error)}
    return facts


def _picture(path: Path) -> dict[str, Any]:
    from genkit.image.canvas import read_note

    with input_errors(path), open_regular(path) as file:
        note = read_note(file.read())
    if not note:
        raise InputError(f"{path} does not say how it was drawn", "genkit writes that into every picture it draws")
    return {"picture": str(path), **note}


def _batch(path: Path) -> dict[str, Any]:
    """Counts over the lines of `text --format jsonl`, or of a batch; one line is in memory at a time."""
    models, finish = Counter[str](), Counter[str]()
    seeds: set[int] = set()
    lines = failed = unfinished = 0
    with input_errors(path), open_regular(path) as file:
        for line in file:
            fact = _object(line)
            if fact is None and not line.endswith(b"\n"):
                unfinished += 1  # a batch that is being written, or was killed
            elif fact is None or not fact.keys() & {"text", "error"}:
                raise InputError(f"{path}: line {lines + 1} is no result of genkit text", "see genkit text --help")
            else:
                lines += 1
                failed += "error" in fact
                models.update([str(fact["model"])] if "model" in fact else [])
                finish.update([str(fact["finish"])] if "finish" in fact else [])
                seeds.update([fact["seed"]] if isinstance(fact.get("seed"), int) else [])
    return {
        "results": str(path),
        "lines": lines,
        "failed": failed,
        "unfinished": unfinished,
        "models": dict(models),
        "finish": dict(finish),
        "seeds": {"least": min(seeds), "largest": max(seeds), "different": len(seeds)} if seeds else None,
    }


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

"""`genkit text --input`: many prompts, a JSON line each."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from genkit.cli.chatform import chat_form
from genkit.cli.filters import check_filled, described, filter_config, open_filter, tell_outcome
from genkit.cli.inorder import InOrder, Tasks
from genkit.cli.options import Value, option
from genkit.cli.progress import Report
from genkit.cli.sampling import open_model, weights_hash
from genkit.cli.sinks import Sink, open_sink
from genkit.cli.terminal import Terminal, random_seed, write
from genkit.config import Option
from genkit.errors import GenkitError, Interrupted, PartialError, Terminated, TerminateSignal, UsageError

if TYPE_CHECKING:
    from genkit.pipeline import TextPipeline
    from genkit.text.batches.lines import Lines
    from genkit.text.batches.tasks import Form

_FORMS = ("auto", "text", "jsonl")


def batch_options(function: Any) -> Any:
    """`--input` and what goes with it."""
    for add in (
        option(
            "--parallel",
            section="Batch",
            type=Value(int, Option(help="", min=1, max=1024), "--parallel"),
            metavar="INT",
            help="Continuations at a time. Default: 64, in int8 16, in int4 and fp16 1.",
        ),
        option(
            "--shard",
            section="Batch",
            metavar="I/N|env",
            help="Do every N-th line, from line I on, into FILE-0000I-of-0000N; "
            "env asks torchrun, Slurm or Grid Engine.",
        ),
        option(
            "--input-format",
            section="Batch",
            type=click.Choice(_FORMS),
            default="auto",
            metavar="|".join(_FORMS),
            show_default=True,
            help="auto goes by the suffix, for a pipe by the first line.",
        ),
        option("--input", section="Batch", metavar="FILE|-", help="Continue each line of a .txt or .jsonl file."),
    ):
        function = add(function)
    return function


def _given(ctx: click.Context, name: str) -> bool:
    """Whether it stands on the command line; what a file or the environment sets is for other commands too."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def check_alone(ctx: click.Context) -> None:
    """Refuse what means nothing without `--input`."""
    for name, flag in (("shard", "--shard"), ("input_format", "--input-format")):
        if _given(ctx, name):
            raise UsageError(f"{flag} is about the lines of --input", f"add --input FILE, or leave out {flag}")


def run_batch(
    ctx: click.Context,
    source: str,
    own: Mapping[str, Any],
    *,
    model: str,
    seed: int | None,
    output: str | None,
    clobber: bool,
    placement: dict[str, str],
) -> None:
    """Continue each line of `source` with the settings `own`, and those that the line has.

    Raises:
        PartialError: some lines were refused; the others are done.
    """
    from genkit.text.batches.lines import Lines
    from genkit.text.batches.shard import parse_shard
    from genkit.text.batches.tasks import LineReader
    from genkit.text.settings import settle

    terminal: Terminal = ctx.obj
    _check(ctx)
    filters = filter_config(ctx)
    shard = parse_shard(ctx.params["shard"], os.environ) if ctx.params["shard"] else None
    with ExitStack() as stack:
        lines = stack.enter_context(Lines(source))
        form = _form(ctx.params["input_format"], source, lines)
        if output is not None:
            output = shard.path(output) if shard else output
            if os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
                raise UsageError(f"--output {output} is the input", "choose another name")
        sink = stack.enter_context(open_sink(output, clobber=clobber))
        pipeline = cast("TextPipeline", stack.enter_context(open_model(terminal, model, "text", **placement)))
        filtered = stack.enter_context(open_filter(filters, pipeline, device=placement["device"]))
        recommended = pipeline.defaults()
        config = settle(own, recommended)
        placed = pipeline.placed(config)
        seed = sink.seed if seed is None else seed
        if seed is None:
            seed = random_seed()
            terminal.note(f"seed {seed}")
        asking = functools.cache(lambda: chat_form(pipeline, terminal, model))
        chat, system = bool(ctx.params["chat"] or ctx.params["system"]), ctx.params["system"]
        reader = LineReader(form, own, recommended, seed, asking=asking, chat=chat, system=system)
        tasks = Tasks(lines, reader, shard)
        header = {
            "model": weights_hash(pipeline.path) or model,
            "engine": placed.engine,
            "precision": placed.precision,
            "seed": seed,
            "shard": f"{shard.index}/{shard.count}" if shard else None,
            "input_format": form,
            "settings": config.to_dict(),
            **({"chat": True, "system": system} if chat else {}),
            **({"filter": described(filters)} if filters else {}),
        }
        report = Report(terminal, lines)
        stack.callback(report.close)
        try:
            for refused in sink.begin(header, tasks):
                report.found(refused)
            report.resumed(sink.part or "")
            for result in InOrder(filtered or pipeline, tasks, ctx.params["parallel"]).results():
                sink.put(result)
                report.add(result)
        except KeyboardInterrupt as error:
            raise _stopped(error, sink, report.lines) from None
        sink.finish()
        report.finish()
    if sink.path is not None:
        write(sink.path + "\n")
    tell_outcome(filtered, terminal)
    if report.refused:
        raise PartialError(
            f"{report.refused:,} of {report.lines:,} lines were refused", "their results say why, the others are done"
        )
    check_filled(filtered)


def _check(ctx: click.Context) -> None:
    """Refuse what means nothing with `--input`."""
    if ctx.params["prompt"]:
        raise UsageError("--input holds the prompts, and one was given besides", "leave one of them out")
    if _given(ctx, "form") and ctx.params["form"] != "jsonl":
        raise UsageError(f"--format {ctx.params['form']} does not go with --input", "its results are JSON lines")
    for name, flag in (("echo", "--echo"), ("stream", "--stream")):
        if _given(ctx, name):
            raise UsageError(
                f"{flag} does not go with --input", "a line of results has the prompt, and is written when it ends"
            )


def _form(asked: str, source: str, lines: Lines) -> Form:
    """What the lines are."""
    from genkit.text.batches.tasks import FORMS, SUFFIXES, guess_form

    if asked != "auto":
        return FORMS[FORMS.index(asked)]
    suffix = PurePath(source).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix and lines.size is not None and source != "-":
        raise UsageError(f"--input {source}: is {suffix} text or JSON lines?", "say it: --input-format text, or jsonl")
    return guess_form(lines.wait())


def _stopped(error: KeyboardInterrupt, sink: Sink, lines: int) -> GenkitError:
    """What an interrupt or a termination says: how much is kept, and how to go on."""
    kind = Terminated if isinstance(error, TerminateSignal) else Interrupted
    word = "terminated" if kind is Terminated else "interrupted"
    if sink.part is None:
        return kind(word)
    return kind(f"{word}; {lines:,} lines are done and kept in {sink.part}", "the same command goes on from there")

"""`genkit text` and `genkit train-text`."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click

from genkit import library
from genkit.cli.options import chosen, command, config_options, model_option, option, runtime_options, seed_option
from genkit.cli.prompt import prompt_text
from genkit.cli.sampling import open_model, timed, weights_hash
from genkit.cli.terminal import Terminal, is_terminal, printable, random_seed, write
from genkit.cli.training import run_training, training_options
from genkit.errors import UsageError
from genkit.files import atomic_write
from genkit.text.config import GenerationConfig, TextTrainConfig

if TYPE_CHECKING:
    from genkit.pipeline import TextEvent, TextPipeline

SEPARATOR = "---\n"

TEXT_EXAMPLES = """
genkit text "Once upon a time"
genkit text "The cat" -n 3 --temperature 0.6 --seed 1
echo "Once there was a dog" | genkit text --max-new-tokens 50
cat opening.txt | genkit text - "The next day," --output story.txt
genkit text "Tom said" -n 8 --format jsonl | jq -r .text
"""

TRAIN_EXAMPLES = """
genkit train-text --data book.txt --out run
genkit train-text --data corpus/ --data more.jsonl.gz --preset baby --budget 2h --out run
genkit train-text --resume --out run
genkit train-text --data book.txt --steps 500 --dry-run
"""


@command("text", TEXT_EXAMPLES)
@click.argument("prompt", nargs=-1)
@model_option(library.DEFAULT_TEXT)
@config_options(GenerationConfig)
@seed_option
@option(
    "--format",
    "form",
    section="Output",
    type=click.Choice(["text", "json", "jsonl"]),
    metavar="text|json|jsonl",
    help="text: samples apart by a line of ---. json: one document. jsonl: one line a sample. Default: text.",
)
@option(
    "--output",
    section="Output",
    metavar="FILE|-",
    help="Write here, not to standard output (-); a file there is replaced in one step.",
)
@option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file.")
@option(
    "--echo/--no-echo",
    section="Output",
    default=True,
    help="Begin each sample with the prompt (text format).",
    show_default=True,
)
@option(
    "--stream/--no-stream", section="Output", default=None, help="Write each token at once. Default: on a terminal."
)
@runtime_options("text")
@click.pass_context
def text(
    ctx: click.Context,
    /,
    prompt: tuple[str, ...],
    model: str,
    seed: int | None,
    form: str | None,
    output: str | None,
    no_clobber: bool,
    echo: bool,
    stream: bool | None,
    device: str,
    precision: str,
    engine: str,
    **sampling: Any,
) -> None:
    """Continue PROMPT.

    Without PROMPT the prompt is read from standard input; `-` adds standard input
    to PROMPT, joined by a newline. A final newline of standard input is not part of
    the prompt. '' starts from nothing.
    """
    terminal: Terminal = ctx.obj
    form = _format(form, terminal.json)
    if stream and form != "text":
        raise UsageError(f"--stream does not go with --format {form}", "jsonl writes each sample when it ends")
    start = prompt_text(ctx, prompt)
    config, set_by_user = chosen(ctx, GenerationConfig)
    output = None if output == "-" else output
    to_terminal = output is None and is_terminal(sys.stdout)
    live = to_terminal if stream is None else stream

    with open_model(terminal, model, "text", device=device, precision=precision, engine=engine) as opened:
        pipeline = cast("TextPipeline", opened)
        config = config.replace(**{k: v for k, v in pipeline.defaults().items() if k not in set_by_user})
        if seed is None:
            seed = random_seed()
            terminal.note(f"seed {seed}")
        with _sink(output, clobber=not no_clobber, live=live) as put:
            tokens = timed(terminal, pipeline.stream(start, config, seed=seed), "tokens")
            events = in_order(tokens, config.n)
            if form == "text":
                pieces = as_text(events, start if echo else "")
            else:
                facts = {"model": model, "model_sha256": weights_hash(pipeline.path), "prompt": start, "seed": seed}
                pieces = as_json(events, facts | {"settings": config.to_dict()}, lines=form == "jsonl")
            for piece in pieces:
                put(printable(piece) if to_terminal else piece)
    if output is not None:
        write(output + "\n")


def _format(form: str | None, as_json: bool) -> str:
    if as_json and form == "text":
        raise UsageError("--json and --format text contradict each other", "leave one of them out")
    return form or ("json" if as_json else "text")


@contextmanager
def _sink(output: str | None, *, clobber: bool, live: bool) -> Iterator[Callable[[str], None]]:
    """Where the pieces go. A file appears when all of it is there."""
    if output is None:
        yield lambda piece: write(piece, flush=live or piece.endswith("\n"))
        return
    with atomic_write(output, clobber=clobber) as file:

        def put(piece: str) -> None:
            file.write(piece.encode())

        yield put


def in_order(events: Iterable[TextEvent], n: int) -> Iterator[TextEvent]:
    """The events sample by sample: those of a later one wait until the earlier ones ended."""
    waiting: list[deque[TextEvent]] = [deque() for _ in range(n)]
    current = 0
    for event in events:
        waiting[event.index].append(event)
        while current < n and waiting[current]:
            ready = waiting[current].popleft()
            yield ready
            current += ready.finish is not None


def as_text(events: Iterable[TextEvent], start: str) -> Iterator[str]:
    """Samples as a reader wants them; each ends with one newline, a line of --- stands between two."""
    index, last = -1, "\n"
    for event in events:
        if event.index != index:
            index = event.index
            yield SEPARATOR * (index > 0)
            yield start
            last = start or last
        yield event.text
        last = event.text or last
        if event.finish is not None and not last.endswith("\n"):
            yield "\n"


def as_json(events: Iterable[TextEvent], facts: dict[str, Any], *, lines: bool) -> Iterator[str]:
    """A document of all samples, or a line for each as soon as it ends."""
    samples, pieces = [], list[str]()
    for event in events:
        pieces.append(event.text)
        if event.finish is None:
            continue
        sample = {"index": event.index, "seed": facts["seed"] + event.index, "text": "".join(pieces)}
        sample["finish"] = event.finish
        pieces.clear()
        if lines:
            yield json.dumps({"model": facts["model"], "prompt": facts["prompt"]} | sample, ensure_ascii=False) + "\n"
        samples.append(sample)
    if not lines:
        yield json.dumps(facts | {"samples": samples}, ensure_ascii=False, indent=2) + "\n"


@command("train-text", TRAIN_EXAMPLES)
@config_options(TextTrainConfig)
@training_options
@runtime_options("train-text")
@click.pass_context
def train_text(ctx: click.Context, /, **values: Any) -> None:
    """Train a GPT on text files, and leave a model directory.

    It loads with `genkit text -m RUN` and with the transformers library. Without
    --budget, --steps or --tokens it trains for ten minutes.
    """
    run_training(ctx, TextTrainConfig, task="train-text")

"""`genkit text`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import click

from genkit import library
from genkit.cli.batch import batch_options, check_alone, run_batch
from genkit.cli.chatform import chat_form, chat_options, said
from genkit.cli.filters import check_filled, filled, filter_config, open_filter, outcome, tell_outcome
from genkit.cli.options import chosen, command, config_options, model_option, option, runtime_options, seed_option
from genkit.cli.prompt import given_text, prompt_text
from genkit.cli.samples import as_json, as_text, in_order
from genkit.cli.sampling import open_model, timed, weights_hash
from genkit.cli.terminal import STANDARD_OUTPUT, Terminal, is_terminal, printable, random_seed, write
from genkit.errors import UsageError
from genkit.files import atomic_write
from genkit.text.config import GenerationConfig
from genkit.text.safety.config import FilterConfig

if TYPE_CHECKING:
    from genkit.pipeline import TextEvent, TextPipeline
    from genkit.text.dialogue import ChatPrompt

EXAMPLES = """
genkit text "Once upon a time"
genkit text "The cat" -n 3 --temperature 0.6 --seed 1
echo "Once there was a dog" | genkit text --max-new-tokens 50
cat opening.txt | genkit text - "The next day," --output story.txt
genkit text "Tom said" -n 8 --format jsonl | jq -r .text
genkit text --input prompts.jsonl --output stories.jsonl
genkit text "Once" -n 5 --filter @words.txt --filter-pattern "kill(ed|s)?"
genkit text -m run --chat --system "Answer in one word." "What is the capital of France?"
"""


@command("text", EXAMPLES)
@click.argument("prompt", nargs=-1)
@model_option(library.DEFAULT_TEXT)
@config_options(GenerationConfig)
@config_options(FilterConfig)
@seed_option
@chat_options
@batch_options
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
    default=None,
    help="Begin each sample with the prompt (text format). Default: unless a constraint or --chat is "
    "given, or the model reads one text and writes another.",
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
    chat: bool,
    system: str | None,
    input: str | None,
    parallel: int | None,
    form: str | None,
    output: str | None,
    no_clobber: bool,
    echo: bool | None,
    stream: bool | None,
    device: str,
    precision: str,
    engine: str,
    **more: Any,
) -> None:
    """Continue PROMPT.

    Without PROMPT the prompt is read from standard input; `-` adds standard input
    to PROMPT, joined by a newline. A final newline of standard input is not part of
    the prompt. '' starts from nothing.

    --input continues every line of a file: a prompt, or in a .jsonl file an object
    with a prompt, an id, a seed and any setting, such as {"prompt": "Tom", "top_k": 9}.
    The results are JSON lines in the same order. With --output, the same command goes
    on where a killed one stopped. A line with messages is a conversation to answer:
    {"messages": [{"role": "user", "content": "Hello"}]}.

    A --filter reads each text when it is whole; what it rejects is drawn anew from another
    seed. A text that is rejected --filter-attempts times is left out, and the exit code is 7.
    A filter finds what it is told to find: it promises no more.

    With --chat the prompt is what a user says, and the model answers, as its chat template
    has it; see `genkit chat`.
    """
    terminal: Terminal = ctx.obj
    config, set_by_user = chosen(ctx, GenerationConfig)
    own = {name: getattr(config, name) for name in set_by_user}
    for name, flag in (("json_schema", "--json-schema"), ("grammar", "--grammar")):
        if own.get(name) is not None:
            own[name] = given_text(flag, own[name])
    output = None if output in STANDARD_OUTPUT else output
    placement = {"device": device, "precision": precision, "engine": engine}
    chat |= system is not None
    filters = filter_config(ctx)
    if input is not None:
        run_batch(ctx, input, own, model=model, seed=seed, output=output, clobber=not no_clobber, placement=placement)
        return
    check_alone(ctx)
    form = _format(form, terminal.json)
    if stream and form != "text":
        raise UsageError(f"--stream does not go with --format {form}", "jsonl writes each sample when it ends")
    if config.logprobs is not None and form == "text":
        raise UsageError(f"--logprobs {config.logprobs} does not show in text", "add --format jsonl")
    start = prompt_text(ctx, prompt)
    to_terminal = output is None and is_terminal(sys.stdout)
    live = not filters and (to_terminal if stream is None else stream)
    if filters and to_terminal:
        terminal.note("each text is shown when the filter has read all of it")

    with ExitStack() as stack:
        pipeline = cast("TextPipeline", stack.enter_context(open_model(terminal, model, "text", **placement)))
        filtered = stack.enter_context(open_filter(filters, pipeline, device=device))
        from genkit.text.settings import settle

        config = settle(own, pipeline.defaults())
        placed = pipeline.placed(config)
        asked: str | ChatPrompt = start
        messages = said(start, system) if chat else None
        if messages is not None:
            asked = chat_form(pipeline, terminal, model).prompt(messages, "the conversation")
        if seed is None:
            seed = random_seed()
            terminal.note(f"seed {seed}")
        with _sink(output, clobber=not no_clobber, live=live) as put:
            drawn: Iterable[TextEvent] = (
                pipeline.stream(asked, config, seed=seed, parallel=parallel, live=live)
                if filtered is None
                else filtered.stream(asked, config, seed=seed, parallel=parallel)
            )
            drawn = timed(terminal, drawn, "tokens", lambda event: event.tokens if event.finish else 0)
            events = filled(in_order(drawn, config.n))
            if config.constraint is not None:
                events = _told_if_cut(events, config.constraint, terminal)
            if form == "text":
                goes_on = pipeline.continues and config.constraint is None and not chat
                echo = goes_on if echo is None else echo
                pieces = as_text(events, start if echo else "")
            else:
                facts = {
                    "model": model,
                    "model_sha256": weights_hash(pipeline.path),
                    "engine": placed.engine,
                    "precision": placed.precision if pipeline.tokenizer else None,  # a .gguf has its own
                    "prompt": start,
                    **({"messages": messages} if messages is not None else {}),
                    "seed": seed,
                    "settings": config.to_dict(),
                }
                last = functools.partial(outcome, filtered)
                pieces = as_json(events, facts, pipeline.piece, lines=form == "jsonl", last=last)
            for piece in pieces:
                put(printable(piece) if to_terminal else piece)
            if output is not None and filtered is not None and filtered.unfilled == config.n:
                tell_outcome(filtered, terminal)
                check_filled(filtered)  # before nothing at all replaces the file that is there
    if output is not None:
        write(output + "\n")
    tell_outcome(filtered, terminal)
    check_filled(filtered)


def _told_if_cut(events: Iterable[TextEvent], flag: str, terminal: Terminal) -> Iterator[TextEvent]:
    """The events, and a note after each sample that ends before it is what its constraint demands."""
    for event in events:
        yield event
        if event.finish in ("length", "stop"):
            remedy = "raise --max-new-tokens" if event.finish == "length" else "leave --stop out"
            terminal.note(f"sample {event.index} was cut after {event.tokens} tokens, so {flag} may not fit ({remedy})")


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

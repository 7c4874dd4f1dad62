"""`genkit classify`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genkit import library
from genkit.cli.options import command, option, runtime_options
from genkit.cli.terminal import (
    STANDARD_OUTPUT,
    Terminal,
    error_facts,
    is_terminal,
    one_line,
    printable,
    say,
    write,
)
from genkit.errors import InputError, PartialError, UsageError
from genkit.files import atomic_write
from genkit.runtime.device import resolve

if TYPE_CHECKING:
    from genkit.text.classify.asking import Answer, Refused

EXAMPLES = """
genkit classify -m run "What a lovely film"
genkit classify -m run --pair "A man is asleep" "A man plays the flute"
cut -f2 reviews.tsv | genkit classify -m run
genkit classify -m run --input texts.jsonl --output answers.jsonl
genkit classify -m run "Never again" --json | jq .label
"""


@command("classify", EXAMPLES)
@click.argument("text", nargs=-1)
@option(
    "-m",
    "--model",
    section="Model",
    required=False,
    metavar="MODEL",
    help="A classifier: a run of genkit train-classifier, a model directory, or hf:org/name.",
)
@option("--pair", section="Texts", metavar="TEXT", help="The second text of the pair that TEXT begins.")
@option(
    "--input",
    section="Texts",
    metavar="FILE|-",
    help="Classify each line of a .txt or .jsonl file; - is standard input.",
)
@option(
    "--text-field",
    section="Texts",
    default="text",
    show_default=True,
    metavar="TEXT",
    help="Field of .jsonl that holds the text.",
)
@option("--pair-field", section="Texts", metavar="TEXT", help="Field of .jsonl that holds the second text of a pair.")
@option("--output", section="Output", metavar="FILE|-", help="Write here; a file there is replaced in one step.")
@option("--no-clobber", section="Output", is_flag=True, help="Refuse to replace a file.")
@runtime_options("classify")
@click.pass_context
def classify(
    ctx: click.Context,
    /,
    text: tuple[str, ...],
    model: str | None,
    pair: str | None,
    input: str | None,
    text_field: str,
    pair_field: str | None,
    output: str | None,
    no_clobber: bool,
    device: str,
    precision: str,
    engine: str,
) -> None:
    """Name the class of TEXT, with the probability of each class.

    One TEXT gives a line for each class, the likeliest first. Several, or the lines of
    standard input, give a line each: its class, the probability and the text, with tabs
    between. --json writes a JSON line for each; so does --input with .jsonl, whose lines
    hold a text, and an id that comes back with the answer.
    """
    terminal: Terminal = ctx.obj
    _check(ctx, text, input)
    if model is None:
        raise UsageError("-m/--model is missing", "name a classifier; genkit train-classifier makes one")
    folder = library.find(model)
    check_classifier(folder, model)
    jsonl = input is not None and _is_jsonl(input)
    if pair_field is not None and not jsonl:
        raise UsageError("--pair-field is a field of .jsonl lines", "give --input FILE.jsonl, or --pair TEXT")
    placed = resolve(device, precision, engine, task="classify")
    terminal.detail(f"{folder} on {placed.device} in {placed.precision} by {placed.engine} ({placed.why})")

    from genkit.runtime.manager import Runtime, memory_guard
    from genkit.text.batches.lines import Lines
    from genkit.text.classify.asking import Question, ask, ask_lines
    from genkit.text.classify.predict import load_classifier

    runtime, refused = Runtime(placed), 0
    with ExitStack() as stack:
        stack.enter_context(runtime.settings())
        stack.enter_context(memory_guard("use --device cpu, or a smaller model"))
        lines = stack.enter_context(Lines(input or "-")) if not text else None
        asked = load_classifier(folder).to(runtime.device).eval()
        put = stack.enter_context(_sink(output, clobber=not no_clobber))
        if lines is None:
            answers: Iterable[Answer | Refused] = ask(asked, [Question(each, pair) for each in text], runtime)
        else:
            answers = ask_lines(asked, lines, runtime, jsonl=jsonl, text_field=text_field, pair_field=pair_field)
        alone = len(text) == 1 and not terminal.json
        for count, answer in enumerate(answers, start=1):
            refused += _put(answer, put, terminal, as_json=terminal.json or jsonl, alone=alone)
    if output not in (None, *STANDARD_OUTPUT):
        write(f"{output}\n")
    if refused:
        raise PartialError(f"{refused:,} of {count:,} lines were refused", "their results say why, the others are done")


def check_classifier(folder: Path, name: str) -> None:
    """Raise InputError for a model that is no classifier."""
    family = library.family(folder) if library.kind(folder) == "text" else "image"
    if family != "classifier":
        raise InputError(
            f"{name} is {_ARTICLES[family]} model, not a classifier",
            f"make one of it: genkit train-classifier --init-from {name} --data labelled.jsonl"
            if family != "image"
            else "name a run of genkit train-classifier",
        )


_ARTICLES = {
    "gpt": "a causal language",
    "causal": "a causal language",
    "seq2seq": "a sequence-to-sequence",
    "masked": "a masked language",
    "image": "an image",
}


def _check(ctx: click.Context, text: tuple[str, ...], input: str | None) -> None:
    if text and input is not None:
        raise UsageError("--input holds the texts, and one was given besides", "leave one of them out")
    if ctx.params["pair"] is not None and len(text) != 1:
        raise UsageError("--pair needs one TEXT that it is the second of", "give it; pairs in files have --pair-field")
    if any(not each.strip() for each in text):
        raise InputError("TEXT is empty", "give a text to classify")
    if not text and input is None and (sys.stdin is None or is_terminal(sys.stdin)):
        click.echo(f"{ctx.get_usage()}\n\nGive a text, or pipe lines in. See {ctx.command_path} --help.", err=True)
        ctx.exit(2)


def _is_jsonl(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    if path != "-" and suffix not in (".jsonl", ".txt", ""):
        raise UsageError(f"--input {path}: {suffix} is neither .txt nor .jsonl", "convert it, or pipe the texts in")
    return suffix == ".jsonl"


def _put(
    answer: Answer | Refused, put: Callable[[str], None], terminal: Terminal, *, as_json: bool, alone: bool
) -> bool:
    """Write an answer, or say why there is none; whether it was refused."""
    from genkit.cli.samples import to_json
    from genkit.text.classify.asking import Refused

    if isinstance(answer, Refused):
        say(one_line(str(answer.error)), bold="error:", color=terminal.colored(sys.stderr))
        if as_json:
            put(to_json({"id": answer.id, "error": error_facts(answer.error)}) + "\n")
        return True
    question, shares = answer.question, answer.probabilities
    if as_json:
        facts: dict[str, Any] = {"id": question.id, "text": question.text}
        facts |= {"pair": question.pair} if question.pair is not None else {}
        rounded = {name: round(share, 6) for name, share in shares.items()}
        put(to_json(facts | {"label": answer.label, "probabilities": rounded}) + "\n")
    elif alone:
        put("".join(f"{_cell(name)}\t{share:.4f}\n" for name, share in shares.items()))
    else:
        put(f"{_cell(answer.label)}\t{shares[answer.label]:.4f}\t{_cell(question.text)}\n")
    return False


def _cell(text: str) -> str:
    """Text that keeps to its line and column."""
    return printable(" ".join(text.split()))


@contextmanager
def _sink(output: str | None, *, clobber: bool) -> Iterator[Callable[[str], None]]:
    """Where the lines go. A file appears when all of it is there."""
    if output is None or output in STANDARD_OUTPUT:
        yield write
        return
    with atomic_write(output, clobber=clobber) as file:

        def put(piece: str) -> None:
            file.write(piece.encode())

        yield put

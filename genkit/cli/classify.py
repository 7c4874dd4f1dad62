"""`genkit classify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genkit import library
from genkit.cli.options import command, option, runtime_options
from genkit.cli.questions import cell, check_texts, open_output, put_refused, question_options
from genkit.cli.terminal import Terminal
from genkit.errors import InputError, PartialError, UsageError
from genkit.runtime.device import resolve

if TYPE_CHECKING:
    from genkit.text.classify.asking import Answer

EXAMPLES = """
genkit classify -m run "What a lovely film"
genkit classify -m run --pair "A man is asleep" "A man plays the flute"
cut -f2 reviews.tsv | genkit classify -m run
genkit classify -m run --input texts.jsonl --output answers.jsonl
genkit classify -m run "Never again" --json | jq .label
"""

_ARTICLES = {
    "gpt": "a causal language",
    "causal": "a causal language",
    "seq2seq": "a sequence-to-sequence",
    "masked": "a masked language",
}


@command("classify", EXAMPLES)
@click.argument("text", nargs=-1)
@option(
    "-m",
    "--model",
    section="Model",
    metavar="MODEL",
    help="A classifier: a run of genkit train-classifier, a model directory, or hf:org/name.",
)
@option("--pair", section="Texts", metavar="TEXT", help="The second text of the pair that TEXT begins.")
@option("--pair-field", section="Texts", metavar="TEXT", help="Field of .jsonl that holds the second text of a pair.")
@question_options
@runtime_options("classify")
@click.pass_context
def classify(
    ctx: click.Context,
    /,
    text: tuple[str, ...],
    model: str | None,
    pair: str | None,
    pair_field: str | None,
    input: str | None,
    text_field: str,
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
    jsonl = check_texts(ctx, text, input)
    if pair is not None and len(text) != 1:
        raise UsageError("--pair needs one TEXT that it is the second of", "give it; pairs in files have --pair-field")
    if pair_field is not None and not jsonl:
        raise UsageError("--pair-field is a field of .jsonl lines", "give --input FILE.jsonl, or --pair TEXT")
    if model is None:
        raise UsageError("-m/--model is missing", "name a classifier; genkit train-classifier makes one")
    folder = library.find(model)
    check_classifier(folder, model)
    placed = resolve(device, precision, engine, task="classify")
    terminal.detail(f"{folder} on {placed.device} in {placed.precision} by {placed.engine} ({placed.why})")

    from genkit.runtime.manager import Runtime, memory_guard
    from genkit.text.batches.lines import Lines
    from genkit.text.classify.asking import ask
    from genkit.text.classify.predict import load_classifier
    from genkit.text.questions import Question, Refused, read_questions

    runtime = Runtime(placed)
    count = refused = 0
    as_json = terminal.json or jsonl
    with ExitStack() as stack:
        stack.enter_context(runtime.settings())
        stack.enter_context(memory_guard("use --device cpu, or a smaller model"))
        asked = load_classifier(folder).to(runtime.device).eval()
        groups: Iterator[list[Question | Refused]] = iter([[Question(each, pair) for each in text]])
        if not text:
            lines = stack.enter_context(Lines(input or "-"))
            groups = read_questions(lines, jsonl=jsonl, text_field=text_field, pair_field=pair_field)
        put = stack.enter_context(open_output(output, clobber=not no_clobber))
        for group in groups:
            answers = iter(ask(asked, [item for item in group if isinstance(item, Question)], runtime))
            for item in group:
                count += 1
                if isinstance(item, Refused):
                    refused += 1
                    put_refused(item, put, terminal, as_json=as_json)
                else:
                    _put(next(answers), put, as_json=as_json, alone=len(text) == 1)
    if refused:
        raise PartialError(f"{refused:,} of {count:,} lines were refused", "see why above; the others are done")


def check_classifier(folder: Path, name: str) -> None:
    """Raise InputError for a model that is no classifier."""
    if folder.is_file():
        raise InputError(f"{name}: a .gguf file is no classifier", "name a run of genkit train-classifier")
    if library.kind(folder) == "image":
        raise InputError(f"{name} is an image model, not a classifier", "name a run of genkit train-classifier")
    family = library.family(folder)
    if family != "classifier":
        raise InputError(
            f"{name} is {_ARTICLES[family]} model, not a classifier",
            f"make one of it: genkit train-classifier --init-from {name} --data labelled.jsonl",
        )


def _put(answer: Answer, put: Callable[[str], None], *, as_json: bool, alone: bool) -> None:
    from genkit.cli.samples import to_json

    question, shares = answer.question, answer.probabilities
    if as_json:
        facts: dict[str, Any] = {"id": question.id, "text": question.text}
        facts |= {"pair": question.pair} if question.pair is not None else {}
        rounded = {name: round(share, 6) for name, share in shares.items()}
        put(to_json(facts | {"label": answer.label, "probabilities": rounded}) + "\n")
    elif alone:
        put("".join(f"{cell(name)}\t{share:.4f}\n" for name, share in shares.items()))
    else:
        put(f"{cell(answer.label)}\t{shares[answer.label]:.4f}\t{cell(question.text)}\n")

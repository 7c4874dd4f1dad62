"""`genkit fill`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genkit import library
from genkit.cli.options import Value, command, model_option, option, runtime_options
from genkit.cli.questions import cell, check_texts, open_output, put_refused, question_options
from genkit.cli.sampling import open_model
from genkit.cli.terminal import Terminal
from genkit.config import Option
from genkit.errors import GenkitError, InputError, PartialError

if TYPE_CHECKING:
    from genkit.pipeline.fill import CausalFiller, MaskedFiller
    from genkit.text.gaps import Candidate
    from genkit.text.questions import Question, Refused

EXAMPLES = """
genkit fill "Once upon a [MASK]"
genkit fill -m hf:google-bert/bert-base-uncased "I love to play [MASK]."
genkit fill -m hf:FacebookAI/roberta-base "The [MASK] of France is [MASK]." --top-k 3
genkit fill --input gaps.jsonl --output filled.jsonl
genkit fill "The cat sat on the [MASK]" --json | jq -r '.gaps[0][0].text'
"""

_TOP_K = Option(help="Candidates for each gap, the likeliest first.", min=1, max=100)


@command("fill", EXAMPLES)
@click.argument("text", nargs=-1)
@model_option(library.DEFAULT_TEXT)
@option(
    "-k", "--top-k", section="Output", type=Value(int, _TOP_K, "--top-k"), default=5, metavar="INT",
    help=_TOP_K.help, show_default=True, range_="1 <= x <= 100",
)  # fmt: skip
@question_options
@runtime_options("fill", also=("llamacpp",))
@click.pass_context
def fill(
    ctx: click.Context,
    /,
    text: tuple[str, ...],
    model: str,
    top_k: int,
    input: str | None,
    text_field: str,
    output: str | None,
    no_clobber: bool,
    device: str,
    precision: str,
    engine: str,
) -> None:
    """Say which words may stand in the gaps of TEXT, each written [MASK].

    A masked model such as BERT fills gaps anywhere, several at once, each judged with the
    others still open. A causal model, such as the bundled one, fills a gap at the end.
    Candidates are single tokens, which may be parts of words. A line has a candidate's
    probability, the candidate, and the text with it; of several gaps the number comes first.
    The lines of standard input, or of --input, are a text each; --json and .jsonl files
    give a JSON line for each text.
    """
    terminal: Terminal = ctx.obj
    jsonl = check_texts(ctx, text, input)

    from genkit.text.batches.lines import Lines
    from genkit.text.questions import Question, Refused, read_questions

    count = refused = 0
    as_json = terminal.json or jsonl
    with ExitStack() as stack:
        lines = stack.enter_context(Lines(input or "-")) if not text else None
        filler = _open(stack, terminal, model, {"device": device, "precision": precision, "engine": engine})
        groups: Iterator[list[Question | Refused]] = iter([[Question(each) for each in text]])
        if lines is not None:
            groups = read_questions(lines, jsonl=jsonl, text_field=text_field)
        put = stack.enter_context(open_output(output, clobber=not no_clobber))
        for group in groups:
            asked = [item for item in group if isinstance(item, Question)]
            answers = iter(list(filler.fill([item.text for item in asked], top_k)))
            for item in group:
                count += 1
                answer = next(answers) if isinstance(item, Question) else item.error
                if isinstance(answer, GenkitError) and lines is None:
                    raise answer
                if isinstance(answer, GenkitError):
                    refused += 1
                    put_refused(Refused(item.id, _at(item, answer)), put, terminal, as_json=as_json)
                elif isinstance(item, Question):
                    _put(item, answer, put, as_json=as_json)
    if refused:
        raise PartialError(f"{refused:,} of {count:,} lines were refused", "see why above; the others are done")


def _open(stack: ExitStack, terminal: Terminal, model: str, placement: dict[str, str]) -> MaskedFiller | CausalFiller:
    """The model, opened as what it is.

    Raises:
        InputError: a model that fills no gaps.
    """
    path = library.find(model)
    family = _family(path)
    if remedy := _REMEDIES.get(family):
        what, hint = remedy
        raise InputError(f"{model} is {what} and fills no gaps", hint.format(model))

    from genkit.pipeline.fill import CausalFiller, MaskedFiller

    if family == "masked":
        return stack.enter_context(MaskedFiller(path, **placement, note=terminal.detail))
    from genkit.pipeline import TextPipeline

    opened = stack.enter_context(open_model(terminal, model, "text", **placement))
    assert isinstance(opened, TextPipeline)
    return CausalFiller(opened)


def _family(path: Path) -> str:
    if path.is_file():
        return "causal"  # a .gguf
    return "image" if library.kind(path) == "image" else library.family(path)


_REMEDIES = {
    "image": ("an image model", "genkit image -m {} draws with it"),
    "seq2seq": ("a sequence-to-sequence model", "genkit text -m {} runs it"),
    "classifier": ("a classifier", "genkit classify -m {} runs it"),
}


def _at(item: Question | Refused, error: GenkitError) -> InputError:
    """The error with its line, which a refused one has already."""
    where = getattr(item, "where", None)
    return InputError(f"{where}: {error.message}" if where else error.message, error.hint)


def _put(question: Question, gaps: list[list[Candidate]], put: Callable[[str], None], *, as_json: bool) -> None:
    from genkit.cli.samples import to_json

    if as_json:
        found = [[asdict(each) for each in gap] for gap in gaps]
        put(to_json({"id": question.id, "text": question.text, "gaps": found}) + "\n")
        return
    for number, gap in enumerate(gaps, start=1):
        for each in gap:
            word = cell(each.text) or "(blank or end of text)"
            start = f"{number}\t" if len(gaps) > 1 else ""
            put(f"{start}{each.probability:.4f}\t{word}\t{cell(each.filled)}\n")

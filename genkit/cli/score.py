"""`genkit score`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genkit.cli.options import chosen, command, config_options
from genkit.cli.terminal import Terminal, is_terminal, write, write_json
from genkit.errors import UsageError
from genkit.text.metrics.config import AGAINST_REFERENCES, ScoreConfig

if TYPE_CHECKING:
    from genkit.text.metrics.measure import Figure

# the metrics that a setting is for
_FOR = {
    "tokenize": {"bleu", "self-bleu"},
    "lowercase": {"bleu", "chrf", "chrf++", "self-bleu", "distinct"},
    "reference_field": {*AGAINST_REFERENCES},
}

EXAMPLES = """
genkit score --candidates mine.txt --references theirs.txt
genkit score --candidates out.jsonl --references a.txt --references b.txt --metric bleu,chrf,meteor
genkit score --candidates answers.csv --candidate-field answer --reference-field truth --metric exact,rouge
genkit text --input prompts.txt | genkit score --candidates - --references stories.txt --metric rouge
genkit text "Once" -n 50 --format jsonl | genkit score --candidates - --metric distinct,self-bleu
"""


@command("score", EXAMPLES)
@config_options(ScoreConfig)
@click.pass_context
def score(ctx: click.Context, /, **values: Any) -> None:
    """Compare texts with what they should be, or with one another.

    bleu, chrf and chrf++ are sacrebleu's, of the whole corpus, from 0 to 100; --json has the
    signature that says how to get the same again. rouge is the mean F1 of rouge-score with
    stems, from 0 to 1; it looks at the letters a to z and digits alone. meteor matches equal
    words and words of one (English) stem, but knows no synonyms, so that it is lower than the
    full METEOR. exact is the share that equals a reference.

    distinct-1 to -3 are the share of different n-grams among all; self-bleu is the mean BLEU
    of each text against all others: the higher, the more alike they are. These two need no
    references.

    Of several references each metric takes what fits best, in its own way.
    """
    terminal: Terminal = ctx.obj
    config, _ = chosen(ctx, ScoreConfig)
    if config.candidates is None:
        raise UsageError("--candidates is missing", f"see {ctx.command_path} --help")
    for name, needs in _FOR.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and needs.isdisjoint(config.metrics):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} changes nothing of {', '.join(config.metrics)}", f"leave {flag} out")

    from genkit.text.metrics.measure import measure, needs_references
    from genkit.text.metrics.texts import STDIN, read_texts

    paired = needs_references(config.metrics)
    if config.references and not paired:
        raise UsageError(f"{' and '.join(config.metrics)} compares texts with no references", "leave --references out")
    asked = STDIN in (config.candidates, *config.references)
    if asked and is_terminal(sys.stdin):
        raise UsageError("standard input is the keyboard, and - reads it", "pipe the texts in, or name a file")
    candidates, references = read_texts(
        config.candidates,
        config.references,
        candidate_field=config.candidate_field,
        reference_field=config.reference_field,
        stdin=sys.stdin.buffer if asked and sys.stdin is not None else None,
        paired=paired,
    )
    found = measure(config.metrics, candidates, references, tokenize=config.tokenize, lowercase=config.lowercase)
    tell_blind_rouge(terminal, found, candidates)
    if terminal.json:
        counts = [len(mine) for mine in references] if paired else [0]
        facts = {
            "candidates": config.candidates,
            "references": list(config.references),
            "texts": len(candidates),
            "references_min": min(counts),
            "references_max": max(counts),
        }
        write_json(facts | {"metrics": figures_json(found)})
    else:
        write(figures_text(found))
        terminal.detail(f"{len(candidates):,} texts")


def tell_blind_rouge(terminal: Terminal, found: Mapping[str, Figure], candidates: list[str]) -> None:
    """Warn where ROUGE sees little: it drops what is not a Latin letter without accent or a digit."""
    letters = sum(c.isalnum() for text in candidates for c in text)
    seen = sum(c.isalnum() and c.isascii() for text in candidates for c in text)
    if "rouge1" in found and seen < 0.5 * letters:
        terminal.note(
            f"warning: rouge sees a-z and 0-9 alone, {seen:,} of {letters:,} letters and digits; take chrf instead"
        )


def figures_json(found: Mapping[str, Figure]) -> dict[str, Any]:
    """Figures as JSON has them."""
    return {name: {"value": f.value, "of": f.scale, "signature": f.signature} for name, f in found.items()}


def figures_text(found: Mapping[str, Figure]) -> str:
    """A line a figure, with what would be perfect, or the most there can be."""
    width = max(map(len, found)) + 2
    return "".join(
        f"{name:<{width}}{f'{f.value:.2f}' if f.scale == 100 else f'{f.value:.4f}':>7}  of {f.scale}\n"
        for name, f in found.items()
    )

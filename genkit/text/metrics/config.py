"""Which metrics there are, and the settings of `genkit score`. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from genkit.config import Config, option, suggest
from genkit.errors import UsageError

AGAINST_REFERENCES = ("bleu", "chrf", "chrf++", "rouge", "meteor", "exact")
BY_THEMSELVES = ("distinct", "self-bleu")
METRICS = AGAINST_REFERENCES + BY_THEMSELVES
DEFAULT = ("bleu", "chrf")
TOKENIZATIONS = ("13a", "intl", "char", "zh", "none")

_METRICS, _TEXTS, _GENERATION = "Metrics", "Texts", "Text models: generation"


def parse_metrics(given: Iterable[str]) -> tuple[str, ...]:
    """The metrics that `bleu,chrf` and the like name, each once, in the order given.

    Raises:
        UsageError: there is no such metric.
    """
    names = [name.strip().lower() for words in given for name in words.split(",")]
    for name in names:
        if name not in METRICS:
            raise UsageError(f"--metric {name!r} is no metric", suggest(name, METRICS))
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Config):
    """What is measured, and where the texts are."""

    metric: tuple[str, ...] = option(DEFAULT, f"Metrics, with commas between: {', '.join(METRICS)}.", multiple=True, metavar="NAME[,NAME]", section=_METRICS)
    tokenize: str = option("13a", "How BLEU and self-BLEU cut words, as sacrebleu names it.", choices=TOKENIZATIONS, section=_METRICS)
    lowercase: bool = option(False, "BLEU and chrF, self-BLEU and distinct-n do not tell capital letters apart.", section=_METRICS)
    candidates: str | None = option(None, "The texts to judge: a line each, or records in jsonl, json, csv or tsv; - is standard input.", metavar="FILE|-", section=_TEXTS)
    references: tuple[str, ...] = option((), "What they should be, line by line; once for each further reference. Default: the records of --candidates.", multiple=True, metavar="FILE|-", section=_TEXTS)
    candidate_field: str | None = option(None, "Field of a record that holds the candidate. Default: candidate, prediction, output or text, or the one sample of a line that genkit text wrote.", metavar="NAME", section=_TEXTS)
    reference_field: str | None = option(None, "Field that holds the reference, or a list of them. Default: references, reference, target or text.", metavar="NAME", section=_TEXTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_metrics(self.metric)
        if [self.candidates, *self.references].count("-") > 1:
            raise UsageError("standard input is one file, and - was given twice", "put the other texts into a file")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Each metric once."""
        return parse_metrics(self.metric)


@dataclass(frozen=True, kw_only=True)
class GenerationEvalConfig(Config):
    """What a model makes of the sources of pairs, and how that is compared with their targets."""

    data: tuple[str, ...]
    metric: tuple[str, ...] = option((), f"Generate from the sources of --data, pairs, and compare with the targets: {', '.join(METRICS)}. Default of sequence-to-sequence models: bleu,chrf.", multiple=True, metavar="NAME[,NAME]", section=_GENERATION)
    source_field: str | None = option(None, "Field that holds the source. Default: source, src, instruction, input or prompt.", metavar="NAME", section=_GENERATION)
    target_field: str | None = option(None, "Field that holds the target. Default: target, tgt, output or completion.", metavar="NAME", section=_GENERATION)
    max_new_tokens: int | None = option(None, "Longest text. Default: the model's own, else 200.", min=1, section=_GENERATION)
    num_beams: int | None = option(None, "Beams to search. Default: the model's own, else the likeliest token each time.", min=1, max=256, section=_GENERATION)
    stop: tuple[str, ...] = option((), "End before this text; may be repeated.", multiple=True, metavar="TEXT", section=_GENERATION)

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_metrics(self.metric)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Each metric once."""
        return parse_metrics(self.metric or DEFAULT)

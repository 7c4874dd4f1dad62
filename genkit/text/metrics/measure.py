"""All metrics of `genkit score` and of generation tasks in `genkit eval`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from genkit.errors import InputError, ResourceError
from genkit.text.metrics.config import AGAINST_REFERENCES
from genkit.text.metrics.diversity import ORDER, distinct, overlaps
from genkit.text.metrics.meteor import meteor, words

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
LONGEST_DISTINCT = 3
METEOR_SIGNATURE = "exact+stem|no synonyms|alpha:0.9|beta:3|gamma:0.5"


class Figure(NamedTuple):
    """A figure, from 0 to `scale`.

    Attributes:
        signature: what it takes to compute the same, in sacrebleu's form where it is sacrebleu's.
    """

    value: float
    scale: int
    signature: str


def needs_references(metrics: Sequence[str]) -> bool:
    """Whether one of them compares texts with what they should be."""
    return not set(metrics).isdisjoint(AGAINST_REFERENCES)


def measure(
    metrics: Sequence[str],
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> dict[str, Figure]:
    """The figures of some texts; `rouge` and `distinct` are several.

    Args:
        metrics: of `genkit.text.metrics.config.METRICS`.
        references: of each candidate; one or more where a metric compares with them.
        tokenize, lowercase: of BLEU; see `ScoreConfig`.

    Raises:
        InputError: no texts, or a single one where they are compared with one another.
        ResourceError: the packages of the extra `score` are not there.
    """
    if not candidates:
        raise InputError("there are no texts to measure")
    found: dict[str, Figure] = {}
    for name in metrics:
        if name in ("bleu", "chrf", "chrf++"):
            found[name] = _sacrebleu(name, candidates, references, tokenize, lowercase)
        elif name == "rouge":
            found |= _rouge(candidates, references)
        elif name == "meteor":
            found[name] = _meteor(candidates, references)
        elif name == "exact":
            found[name] = Figure(_exact(candidates, references), 1, "NFC|outer white space aside")
        elif name == "distinct":
            cut = [words(text.lower() if lowercase else text) for text in candidates]
            case = "lc" if lowercase else "mixed"
            for n in range(1, LONGEST_DISTINCT + 1):
                found[f"distinct-{n}"] = Figure(distinct(cut, n), 1, f"case:{case}|words and punctuation")
        else:
            found[name] = _self_bleu(candidates, tokenize, lowercase)
    return found


def _sacrebleu(
    name: str, candidates: Sequence[str], references: Sequence[Sequence[str]], tokenize: str, lowercase: bool
) -> Figure:
    library = _library("sacrebleu.metrics")
    if name == "bleu":
        metric = library.BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    else:
        metric = library.CHRF(word_order=2 if name == "chrf++" else 0, lowercase=lowercase)
    most = max(map(len, references))
    streams = [[mine[i] if i < len(mine) else None for mine in references] for i in range(most)]
    score = metric.corpus_score(list(candidates), streams)
    return Figure(float(score.score), 100, str(metric.get_signature()))


def _rouge(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Figure]:
    scorer = _library("rouge_score.rouge_scorer")
    tokenizer = _library("rouge_score.tokenizers").DefaultTokenizer(use_stemmer=True)
    rouge = scorer.RougeScorer(ROUGES, tokenizer=tokenizer)
    scores = [rouge.score_multi(mine, text) for text, mine in zip(candidates, references, strict=True)]
    return {
        name: Figure(sum(s[name].fmeasure for s in scores) / len(scores), 1, "F1|mean|stemmer:porter|letters:a-z0-9")
        for name in ROUGES
    }


def _meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Figure:
    stem = _library("nltk.stem.porter").PorterStemmer().stem
    scores = [meteor(words(text), [*map(words, mine)], stem) for text, mine in zip(candidates, references, strict=True)]
    return Figure(sum(scores) / len(scores), 1, METEOR_SIGNATURE)


def _exact(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text).strip()

    hits = [plain(text) in map(plain, mine) for text, mine in zip(candidates, references, strict=True)]
    return sum(hits) / len(hits)


def _self_bleu(candidates: Sequence[str], tokenize: str, lowercase: bool) -> Figure:
    if len(candidates) < 2:
        raise InputError("self-bleu compares texts with one another, and there is one", "give two or more")
    bleu = _library("sacrebleu.metrics").BLEU(
        tokenize=tokenize, lowercase=lowercase, force=True, effective_order=True, max_ngram_order=ORDER
    )
    cut = [bleu.tokenizer((text.lower() if lowercase else text).rstrip()).split() for text in candidates]
    scores = [
        bleu.compute_bleu(o.correct, o.total, o.length, o.reference, smooth_method="exp", effective_order=True).score
        for o in overlaps(cut)
    ]
    case = "lc" if lowercase else "mixed"
    return Figure(sum(scores) / len(scores), 100, f"case:{case}|eff:yes|tok:{tokenize}|smooth:exp|mean")


def _library(name: str) -> Any:
    """A module of the extra `score`.

    Raises:
        ResourceError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        package = {"sacrebleu": "sacrebleu"}.get(name.split(".")[0], "rouge-score")
        raise ResourceError(f"{package} is not installed", "pip install 'genkit-cli[score]'") from error

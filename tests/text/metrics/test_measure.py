"""The metrics against the libraries of the field."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from genkit.errors import ResourceError
from genkit.text.metrics.measure import ROUGES, measure
from genkit.text.metrics.meteor import align, meteor, words

CANDIDATES = [
    "It is a guide to action which ensures that the military obeys.",
    "he reads the book",
    "",
    "Straße, 3 km!",
]
REFERENCES = [
    ["It is a guide to action that ensures the military will obey.", "The party's guide to acting"],
    ["he was reading a book"],
    ["something"],
    ["Strasse 3 km", "straße , 3 km !", "3"],
]


class NoSynonyms:
    """A WordNet that knows no word."""

    def synsets(self, word: str) -> list[Any]:
        return []


def random_pairs(count: int) -> list[tuple[list[str], list[str]]]:
    random.seed(1)
    vocabulary = ["run", "running", "runs", "Run", "cat", "cats", "the", "a", "of", "happily", "happy", ",", "."]
    return [(random.choices(vocabulary, k=random.randint(0, 15)), random.choices(vocabulary, k=random.randint(1, 15)))
            for _ in range(count)]  # fmt: skip


def test_meteor_is_nltks_without_synonyms() -> None:
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import meteor_score

    stemmer = PorterStemmer()
    for candidate, reference in random_pairs(300):
        others = [reference, candidate[::2] or ["x"]]
        expected = meteor_score(others, candidate, stemmer=stemmer, wordnet=NoSynonyms())
        assert meteor(candidate, others, stemmer.stem) == pytest.approx(expected, abs=1e-12)


def test_meteor_in_closed_form() -> None:
    def same(word: str) -> str:
        return word

    assert align(["a", "b", "c"], ["c", "x", "B"], same) == [(1, 2), (2, 0)]
    # two matches in two chunks: precision and recall 2/3, penalty one half
    assert meteor(["a", "b", "c"], [["c", "x", "B"]], same) == pytest.approx(2 / 3 / 2)
    assert meteor(["a", "b", "c", "d"], [["a", "b", "c", "d"]], same) == pytest.approx(1 - 0.5 / 4**3)
    assert meteor([], [["a"]], same) == 0.0
    assert words("don't stop!") == ["don", "'", "t", "stop", "!"]


def test_bleu_and_chrf_are_sacrebleus() -> None:
    from sacrebleu import corpus_bleu, corpus_chrf

    streams = [[mine[i] if i < len(mine) else None for mine in REFERENCES] for i in range(3)]
    found = measure(["bleu", "chrf", "chrf++"], CANDIDATES, REFERENCES, tokenize="intl", lowercase=True)
    assert found["bleu"].value == corpus_bleu(CANDIDATES, streams, tokenize="intl", lowercase=True).score
    lower = [text.lower() for text in CANDIDATES], [[t and t.lower() for t in stream] for stream in streams]
    assert found["chrf"].value == corpus_chrf(*lower).score
    assert found["chrf++"].value == corpus_chrf(*lower, word_order=2).score
    assert found["bleu"].signature.startswith("nrefs:var|case:lc|eff:no|tok:intl|smooth:exp|version:")
    assert 0 < found["bleu"].value < 100


def test_rouge_is_the_mean_of_the_best_reference() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGES), use_stemmer=True)
    found = measure(["rouge"], CANDIDATES, REFERENCES)
    for name in ROUGES:
        best = [
            max(scorer.score(reference, text)[name].fmeasure for reference in mine)
            for text, mine in zip(CANDIDATES, REFERENCES, strict=True)
        ]
        assert found[name].value == pytest.approx(sum(best) / 4)


def test_exact_sees_past_white_space_and_composition() -> None:
    found = measure(["exact"], [" café\n", "b", "c", "d"], [["cafe\u0301"], ["x", "b"], ["C"], ["d d"]])
    assert found["exact"].value == 0.5


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ResourceError, match=r"sacrebleu is not installed .*genkit-cli\[score\]"):
        measure(["bleu"], ["a"], [["a"]])

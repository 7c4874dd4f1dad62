"""Distinct-n and self-BLEU."""

from __future__ import annotations

import random

import pytest

from genkit.errors import InputError
from genkit.text.metrics.diversity import distinct, overlaps
from genkit.text.metrics.measure import measure

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far"]


def draw(seed: int, count: int) -> list[str]:
    random.seed(seed)
    return [" ".join(random.choices(WORDS[: 3 + seed], k=random.randint(0, 12))) for _ in range(count)]


def test_distinct_is_the_share_of_different_ngrams() -> None:
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct(texts, 1) == 2 / 5
    assert distinct(texts, 2) == 2 / 3  # a b, b a, a b
    assert distinct(texts, 3) == 1.0
    assert distinct(texts, 4) == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_self_bleu_is_sacrebleus_of_each_against_the_others(seed: int) -> None:
    from sacrebleu import sentence_bleu

    texts = draw(seed, 12)
    expected = [sentence_bleu(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    found = measure(["self-bleu"], texts, [])["self-bleu"]
    assert found.value == pytest.approx(sum(expected) / len(expected), abs=1e-9)


def test_texts_that_are_alike_count_as_each_others_references() -> None:
    alike = ["the cat sat on the mat"] * 3
    assert measure(["self-bleu"], alike, [])["self-bleu"].value == pytest.approx(100)
    assert [o.reference for o in overlaps([["a"], ["a"] * 4, ["a"] * 6])] == [4, 6, 4]


def test_one_text_has_no_others() -> None:
    with pytest.raises(InputError, match="there is one"):
        measure(["self-bleu"], ["a b"], [])

"""Gaps in texts: where they may be, and what masked models expect in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from genkit.errors import InputError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.gaps import before_gap, parts


def test_both_marks_make_a_gap() -> None:
    assert parts("a [MASK] b <mask>.") == ["a ", " b ", "."]
    with pytest.raises(InputError, match="there is no gap in 'a b'") as error:
        parts("a b")
    assert "[MASK]" in (error.value.hint or "")


def test_a_causal_model_sees_what_is_before_the_gap() -> None:
    assert before_gap("Once upon a [MASK]") == "Once upon a"
    assert before_gap("un[MASK] \n") == "un"
    assert before_gap("[MASK]") == ""
    with pytest.raises(InputError, match=r"'\.' stands behind the gap") as error:
        before_gap("Once upon a [MASK].")
    assert "masked model" in (error.value.hint or "")
    with pytest.raises(InputError, match="2 gaps in"):
        before_gap("a [MASK] b [MASK]")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_probabilities_equal_those_of_the_transformers_pipeline(
    kind: str, hub_checkpoint: Callable[[str], Path]
) -> None:
    from transformers import pipeline

    from genkit.text.masked import MaskedModel

    folder = hub_checkpoint(kind)
    theirs = pipeline("fill-mask", model=str(folder), top_k=4)
    ours = MaskedModel(folder, Runtime(resolve("cpu", "fp32", task="fill")))
    for text in ("the cat [MASK] on the mat .", "a [MASK] ran to the <mask> ."):
        expected = theirs(text.replace("[MASK]", "<mask>").replace("<mask>", theirs.tokenizer.mask_token))
        expected = [expected] if text.count("<mask>") == 0 else expected
        found = ours.fill(text, 4)
        assert len(found) == len(expected)
        for gap, rows in zip(found, expected, strict=True):
            assert [each.token for each in gap] == [row["token"] for row in rows]
            assert [each.text for each in gap] == [row["token_str"] for row in rows]
            assert [each.probability for each in gap] == pytest.approx([row["score"] for row in rows], abs=1e-5)
        if len(expected) == 1:
            assert [each.filled for each in found[0]] == [row["sequence"].strip() for row in expected[0]]


def test_texts_longer_than_the_context_are_refused(hub_checkpoint: Callable[[str], Path]) -> None:
    from genkit.text.masked import MaskedModel

    model = MaskedModel(hub_checkpoint("bert"), Runtime(resolve("cpu", "fp32", task="fill")))
    with pytest.raises(InputError, match="the model's context"):
        model.fill("the cat " * 2000 + "[MASK]", 1)

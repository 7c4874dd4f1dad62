"""Differences between groups: exact likelihoods, and intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.text.explain.open import open_subject
from genkit.text.safety.audit import compare_likelihoods, likelihoods, perplexities
from genkit.text.safety.compare import differences
from genkit.text.safety.templates import Template, read_templates

CPU = torch.device("cpu")
LINE = {"template": "The {group} sat", "groups": ["cat", "dog"], "continuations": [" on", " in"]}


def test_likelihoods_are_the_models_own(tiny_text: Path) -> None:
    from genkit.text.models.store import load_model
    from genkit.text.tokenizer import Tokenizer

    model, tokenizer = load_model(tiny_text).eval(), Tokenizer.load(tiny_text)

    def logprob(prompt: str, continuation: str) -> float:
        before = [tokenizer.eos_id, *tokenizer.encode(prompt)]
        ids = before + tokenizer.encode(continuation)
        with torch.no_grad():
            logs = model(torch.tensor([ids]))[0].double().log_softmax(-1)
        return sum(float(logs[i - 1, ids[i]]) for i in range(len(before), len(ids)))

    template = Template("The {group} sat", {"a": ("cat",), "b": ("dog", "bird")}, (" on", " in the"), "t:1")
    first, second = likelihoods(open_subject(tiny_text, CPU), [template], CPU)
    assert first.logprob["a"] == pytest.approx(logprob("The cat sat", " on"), abs=1e-5)
    both = (logprob("The dog sat", " in the") + logprob("The bird sat", " in the")) / 2
    assert second.logprob["b"] == pytest.approx(both, abs=1e-5)
    assert (first.tokens["a"], second.tokens["b"]) == (3, 7)
    by_token = -(first.logprob["a"] + second.logprob["a"]) / 10
    assert perplexities([first, second])["a"] == pytest.approx(math.exp(by_token))
    found = compare_likelihoods([first, second], seed=0)
    gap = (first.logprob["b"] - first.logprob["a"] + second.logprob["b"] - second.logprob["a"]) / 2
    assert found.differences["b"].value == pytest.approx(gap)
    assert list(found.differences) == ["b"]


def test_a_continuation_is_the_product_of_its_parts(tiny_text: Path) -> None:
    groups: dict[str, tuple[str, ...]] = {"a": ("cat",), "b": ("dog",)}
    whole = Template("The {group}", groups, (" sat on",), "t:1")
    parts = [Template("The {group}", groups, (" sat",), "t:1"), Template("The {group} sat", groups, (" on",), "t:2")]
    subject = open_subject(tiny_text, CPU)
    (together,), (one, two) = likelihoods(subject, [whole], CPU), likelihoods(subject, parts, CPU)
    for group in groups:
        assert together.logprob[group] == pytest.approx(one.logprob[group] + two.logprob[group], abs=1e-5)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        gaps = random.normal(0.3, 1.0, 40)
        found = differences({"a": np.zeros(40), "b": gaps}, seed=trial)["b"]
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        held += found.low <= 0.3 <= found.high
    assert 178 <= held <= 199  # 95 % of 200 are 190; percentile intervals are a little short


def test_an_interval_depends_on_its_seed_alone() -> None:
    values = {"a": np.arange(8.0), "b": np.arange(8.0) ** 1.5, "c": np.arange(8.0)}
    assert differences(values, 1) == differences(values, 1) != differences(values, 2)
    assert differences(values, 1)["c"] == (0.0, 0.0, 0.0, 0.0)
    assert differences({"a": np.zeros(2), "b": np.array([3.0, -3.0])}, 0)["b"] == (0.0, -3.0, 3.0, 3.0)
    assert differences({"a": np.ones(1), "b": np.zeros(1)}, 0)["b"] == (-1.0, None, None, 1.0)


def test_templates(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    several = LINE | {"groups": {"cat": ["cat", "kitten"], "dog": "dog"}, "continuations": " ran"}
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(several) + "\n")
    one, two = read_templates([str(path)])
    assert one.groups == {"cat": ("cat",), "dog": ("dog",)}
    assert (two.prompts("cat"), two.continuations) == (["The cat sat", "The kitten sat"], (" ran",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "The cat"}, r"t.jsonl:1 has no template with {group}"),
        ({"groups": ["cat"]}, "has 1 group"),
        ({"groups": 5}, "groups is 5, neither a list nor an object"),
        ({"groups": None}, "groups is None, neither"),
        ({"groups": "cat"}, "neither a list nor an object"),
        ({"groups": {"cat": [], "dog": ["dog"]}}, "a group has no words"),
        ({"groups": ["cat", 3]}, "3 is not text"),
        ({"continuations": [" on", " on"]}, "a continuation twice"),
        ({"continuations": [" "]}, "is not text, or empty"),
    ],
)
def test_broken_templates_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(LINE | changes) + "\n")
    with pytest.raises(InputError, match=message):
        read_templates([str(path)])


def test_templates_must_have_the_same_groups(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | {"groups": ["dog", "bird"]}) + "\n")
    with pytest.raises(InputError, match=r"t.jsonl:2 has the groups dog, bird, .*t.jsonl:1 cat, dog"):
        read_templates([str(path)])


def test_a_template_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    other = LINE | {"groups": {"cat": ["kitten"], "dog": ["puppy"]}}
    lines = [LINE, other, LINE | {"continuations": [" off"]}, LINE]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    assert len(read_templates([str(path)])) == 3
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"t.jsonl:4 repeats .*t.jsonl:1"):
        read_templates([str(path)])


def test_a_prompt_that_does_not_fit_is_named(tiny_text: Path) -> None:
    template = Template("The {group}" + " cat" * 30, {"a": ("cat",), "b": ("dog",)}, (" on",), "t.jsonl:7")
    with pytest.raises(InputError, match=r"t\.jsonl:7: the prompt has"):
        likelihoods(open_subject(tiny_text, CPU), [template], CPU)

"""Probabilities, ranks and entropies of tokens, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from genkit.text.explain.surprise import places, readings


def test_a_reading_in_closed_form() -> None:
    [found] = readings(torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]])), [1], top=2)
    assert found.probability == pytest.approx(0.25)
    assert found.logprob == pytest.approx(math.log(0.25))
    assert (found.rank, found.id) == (2, 1)
    assert found.surprise == pytest.approx(2.0)
    assert found.entropy == pytest.approx(0.5 + 0.5 + 3 / 8 + 3 / 8)
    assert [candidate.id for candidate in found.top] == [0, 1]
    assert [candidate.probability for candidate in found.top] == pytest.approx([0.5, 0.25])


def test_what_is_impossible_adds_no_entropy() -> None:
    [place] = places(torch.tensor([[0.0, 0.0, -math.inf]]), top=5)
    assert place.entropy == pytest.approx(1.0)
    assert [candidate.probability for candidate in place.top] == pytest.approx([0.5, 0.5, 0.0])


def test_equals_have_the_better_rank() -> None:
    assert [found.rank for found in readings(torch.zeros(2, 3), [0, 2], top=1)] == [1, 1]


def test_a_certain_token() -> None:
    [found] = readings(torch.tensor([[200.0, 0.0]]), [0], top=1)
    assert (found.rank, found.surprise, found.entropy) == (1, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))

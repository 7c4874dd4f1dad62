"""Batches fetched ahead are those of their steps."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from genkit.training.ahead import Ahead


class Source:
    def __init__(self) -> None:
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        self.asked.append(step)
        self.threads.add(threading.get_ident())
        if step == 9:
            raise ValueError("no such step")
        return torch.tensor([step]), torch.tensor([-step])


def test_a_cpu_fetches_when_it_is_asked() -> None:
    source = Source()
    with Ahead(source, torch.device("cpu")) as batches:
        assert [batches(step)[0].item() for step in (0, 1, 5)] == [0, 1, 5]
    assert source.asked == [0, 1, 5]
    assert source.threads == {threading.get_ident()}


def test_an_accelerator_has_the_next_one_ready_and_a_jump_is_noticed() -> None:
    source = Source()
    with Ahead(source, torch.device("mps")) as batches:
        found = [tuple(part.item() for part in batches(step)) for step in (0, 1, 2, 7, 8)]
    assert found == [(0, 0), (1, -1), (2, -2), (7, -7), (8, -8)]
    assert sorted(set(source.asked)) in ([0, 1, 2, 3, 7, 8], [0, 1, 2, 3, 7, 8, 9])  # 9 may be cancelled
    assert [source.asked.count(step) for step in (0, 1, 2, 7, 8)] == [1] * 5
    assert len(source.threads) == 2


def test_an_error_is_raised_where_its_step_is_asked_for() -> None:
    with Ahead(Source(), torch.device("mps")) as batches:
        batches(8)
        with pytest.raises(ValueError, match="no such step"):
            batches(9)

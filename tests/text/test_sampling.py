"""Exact probabilities, and parity with the logits processors of `transformers`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genkit.text import sampling
from genkit.text.config import GenerationConfig
from genkit.text.sampling import process, sample

NEUTRAL = GenerationConfig(temperature=1.0, top_p=1.0)


def log(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def mass(logits: Tensor) -> list[float]:
    return [round(p, 4) for p in logits.softmax(-1)[0].tolist()]


@pytest.mark.parametrize(
    ("p", "wanted"),
    [
        (0.3, [1.0, 0.0, 0.0, 0.0]),
        (0.49, [1.0, 0.0, 0.0, 0.0]),
        (0.51, [0.625, 0.0, 0.375, 0.0]),
        (0.95, [0.5263, 0.1579, 0.3158, 0.0]),
        (1.0, [0.5, 0.15, 0.3, 0.05]),
    ],
)
def test_top_p(p: float, wanted: list[float]) -> None:
    assert mass(sampling.top_p(torch.tensor([[0.5, 0.15, 0.3, 0.05]]).double().log(), p)) == wanted


@pytest.mark.parametrize(
    ("k", "wanted"),
    [(1, [0.0, 1.0, 0.0]), (2, [0.0, 0.6667, 0.3333]), (3, [0.1, 0.6, 0.3]), (99, [0.1, 0.6, 0.3])],
)
def test_top_k(k: int, wanted: list[float]) -> None:
    assert mass(sampling.top_k(log(0.1, 0.6, 0.3), k)) == wanted


def test_top_k_keeps_ties() -> None:
    assert mass(sampling.top_k(log(0.4, 0.2, 0.2, 0.2), 2)) == [0.4, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("p", "wanted"), [(0.4, [0.6667, 0.3333, 0.0]), (0.1, [0.6, 0.3, 0.1]), (1.0, [1.0, 0.0, 0.0])]
)
def test_min_p(p: float, wanted: list[float]) -> None:
    assert mass(sampling.min_p(log(0.6, 0.3, 0.1), p)) == wanted


def test_temperature() -> None:
    assert mass(sampling.temperature(log(0.8, 0.2), 0.5)) == [0.9412, 0.0588]
    assert mass(sampling.temperature(log(0.8, 0.2), 1e-40)) == [1.0, 0.0]  # no overflow
    assert mass(sampling.temperature(log(0.8, 0.2), 100.0)) == [0.5035, 0.4965]


def test_penalties() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert sampling.repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]
    counts = torch.tensor([[3, 0, 1]])
    assert sampling.frequency_penalty(logits, counts, 0.5).tolist() == [[0.5, -2.0, 0.5]]
    assert sampling.presence_penalty(logits, counts, 0.5).tolist() == [[1.5, -2.0, 0.5]]


def test_defaults_that_are_off_change_nothing() -> None:
    logits = torch.randn(3, 50)
    seen, counts = torch.ones(3, 50, dtype=torch.bool), torch.ones(3, 50)
    assert process(logits, NEUTRAL, seen=seen, counts=counts) is logits


def test_penalties_come_before_temperature_and_truncation() -> None:
    """The penalty moves the favourite out of the top 1; greedy decoding sees penalties too."""
    logits, counts = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2, 0, 0]])
    config = NEUTRAL.replace(top_k=1, frequency_penalty=1.0, temperature=0.5)
    assert mass(process(logits, config, counts=counts)) == [0.0, 1.0, 0.0]
    assert process(logits, config.replace(temperature=0.0), counts=counts).argmax().item() == 1


@pytest.mark.parametrize("seed", range(5))
def test_processors_of_transformers(seed: int) -> None:
    from transformers.generation import logits_process as theirs

    logits = torch.randn(8, 300, generator=torch.Generator().manual_seed(seed)) * 3
    ids = torch.randint(0, 300, (8, 40), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros(8, 300, dtype=torch.bool).scatter_(1, ids, True)
    pairs = [
        (sampling.repetition_penalty(logits, seen, 1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)),
        (sampling.top_k(logits, 20), theirs.TopKLogitsWarper(20)),
        (sampling.top_p(logits, 0.7), theirs.TopPLogitsWarper(0.7)),
        (sampling.min_p(logits, 0.05), theirs.MinPLogitsWarper(0.05)),
    ]
    for ours, processor in pairs:
        assert torch.equal(ours, processor(ids, logits))
    cooler = theirs.TemperatureLogitsWarper(0.7)(ids, logits)
    torch.testing.assert_close(sampling.temperature(logits, 0.7).softmax(-1), cooler.softmax(-1))


def test_the_order_is_that_of_transformers() -> None:
    from transformers import GenerationConfig as HFConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    knobs = {"temperature": 0.6, "top_k": 60, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.4}
    tiny = LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )  # fmt: skip
    processors = LlamaForCausalLM(tiny)._get_logits_processor(
        HFConfig(do_sample=True, **knobs), input_ids_seq_length=40
    )
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 300, generator=generator) * 2
    ids = torch.randint(0, 300, (8, 40), generator=generator)
    seen = torch.zeros(8, 300, dtype=torch.bool).scatter_(1, ids, True)
    ours = process(logits, NEUTRAL.replace(**knobs), seen=seen)
    torch.testing.assert_close(ours.softmax(-1), processors(ids, logits.clone()).softmax(-1))


def test_sample_inverts_the_cumulative_distribution() -> None:
    logits = log(0.25, 0.0, 0.5, 0.25).double()
    uniforms = [0.0, 0.2499, 0.25, 0.7499, 0.7501, 1 - 2**-53]
    tokens = sample(logits.expand(6, 4), torch.tensor(uniforms, dtype=torch.float64))
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_a_dropped_token_is_never_drawn(u: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (2, 3, 1000):
        logits = torch.randn(64, size, generator=generator)
        logits[:, 0] = logits[:, -1] = -math.inf
        logits[:, size // 2] = 0.0
        tokens = sample(logits, torch.full((64,), u, dtype=torch.float64))
        assert logits.gather(1, tokens.unsqueeze(1)).isfinite().all()


def test_frequencies_are_the_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniforms = torch.arange(10_000, dtype=torch.float64).add(0.5) / 10_000
    drawn = sample(probabilities.log().expand(10_000, 4), uniforms).bincount(minlength=4)
    assert drawn.tolist() == [1000, 2000, 3000, 4000]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 500, generator=generator)
    uniforms = torch.rand(32, generator=generator, dtype=torch.float64)
    together = sample(process(logits, GenerationConfig(min_p=0.01, top_k=100)), uniforms)
    alone = [
        sample(process(row[None], GenerationConfig(min_p=0.01, top_k=100)), u[None]).item()
        for row, u in zip(logits, uniforms, strict=True)
    ]
    assert together.tolist() == alone

"""Exact probabilities, and parity with the logits processors of `transformers`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from genkit.text import sampling
from genkit.text.config import GenerationConfig
from genkit.text.sampling import Past, Rules, penalise, process, sample

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


@pytest.mark.parametrize(
    ("p", "wanted"),
    [  # surprise 0.69, 1.39, 2.08, 2.08; its mean is 1.21: the second token is the most typical
        (0.2, [0.0, 1.0, 0.0, 0.0]),
        (0.25, [0.0, 1.0, 0.0, 0.0]),
        (0.3, [0.6667, 0.3333, 0.0, 0.0]),
        (0.75, [0.6667, 0.3333, 0.0, 0.0]),
        (0.8, [0.5, 0.25, 0.125, 0.125]),  # the last two tie
        (0.99, [0.5, 0.25, 0.125, 0.125]),
    ],
)
def test_typical_p(p: float, wanted: list[float]) -> None:
    assert mass(sampling.typical_p(torch.tensor([[0.5, 0.25, 0.125, 0.125]]).double().log(), p)) == wanted


def test_typical_p_after_truncation() -> None:
    """Tokens that are dropped have no surprise to count."""
    assert mass(sampling.typical_p(log(0.6, 0.0, 0.2, 0.2), 0.99)) == [0.6, 0.0, 0.2, 0.2]


def test_penalties() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert sampling.repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]
    counts = torch.tensor([[3, 0, 1]])
    assert sampling.frequency_penalty(logits, counts, 0.5).tolist() == [[0.5, -2.0, 0.5]]
    assert sampling.presence_penalty(logits, counts, 0.5).tolist() == [[1.5, -2.0, 0.5]]


def test_defaults_that_are_off_change_nothing() -> None:
    logits = torch.randn(3, 50)
    assert process(logits, Rules(NEUTRAL, eos_id=0), [Past([1, 2], [3])] * 3) is logits


def test_penalties_come_before_temperature_and_truncation() -> None:
    """The penalty moves the favourite out of the top 1; greedy decoding sees penalties too."""
    logits, pasts = torch.tensor([[3.0, 2.0, 1.0]]), [Past([], [0, 0])]
    config = NEUTRAL.replace(top_k=1, frequency_penalty=1.0, temperature=0.5)
    assert mass(process(logits, Rules(config), pasts)) == [0.0, 1.0, 0.0]
    assert process(logits, Rules(config.replace(temperature=0.0)), pasts).argmax().item() == 1


def test_frequency_and_presence_count_generated_tokens_alone() -> None:
    """The repetition penalty counts the prompt too."""
    logits, pasts = torch.ones(2, 3), [Past([0, 0], [1, 1]), Past([2], [])]
    frequent = penalise(logits, Rules(NEUTRAL.replace(frequency_penalty=0.5)), pasts)
    assert frequent.tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    present = penalise(logits, Rules(NEUTRAL.replace(presence_penalty=0.5)), pasts)
    assert present.tolist() == [[1.0, 0.5, 1.0], [1.0, 1.0, 1.0]]
    repeated = penalise(logits, Rules(NEUTRAL.replace(repetition_penalty=2.0)), pasts)
    assert repeated.tolist() == [[0.5, 0.5, 1.0], [1.0, 1.0, 0.5]]


@pytest.mark.parametrize(
    ("tokens", "n", "wanted"),
    [
        ([1, 2, 3, 1, 2], 3, {3}),
        ([1, 2, 3, 1, 2, 4, 1, 2], 3, {3, 4}),
        ([1, 2, 3], 3, set()),
        ([1, 1], 2, {1}),
        ([1], 2, set()),
        ([], 2, set()),
        ([5, 6, 5], 1, {5, 6}),
        ([], 1, set()),
        ([1, 2], 5, set()),
    ],
)
def test_repeats(tokens: list[int], n: int, wanted: set[int]) -> None:
    assert sampling.repeats(tokens, n) == wanted


def test_sequence_bias_acts_where_the_tokens_before_match() -> None:
    bias = [((4,), 2.0), ((4,), 0.5), ((1, 3), -math.inf), ((2, 1, 0), 1.0), ((9, 9, 9, 9), 7.0)]
    rows = [[2, 1], [1], [5, 2], []]
    added = sampling.sequence_bias(torch.zeros(4, 5), rows, bias)
    assert added.tolist() == [
        [1.0, 0.0, 0.0, -math.inf, 2.5],
        [0.0, 0.0, 0.0, -math.inf, 2.5],
        [0.0, 0.0, 0.0, 0.0, 2.5],
        [0.0, 0.0, 0.0, 0.0, 2.5],
    ]


def test_forbidden_tokens_are_asked_for_with_the_whole_row() -> None:
    asked: list[list[int]] = []

    def forbidden(tokens: Sequence[int]) -> list[int]:
        asked.append(list(tokens))
        return [len(tokens)]

    dropped = penalise(torch.zeros(2, 4), Rules(NEUTRAL, forbidden=forbidden), [Past([7, 7], [7]), Past([7])])
    assert asked == [[7, 7, 7], [7]]
    assert dropped.isinf().tolist() == [[False, False, False, True], [False, True, False, False]]


def test_no_end_of_text_before_min_new_tokens() -> None:
    rules, pasts = Rules(NEUTRAL.replace(min_new_tokens=2), eos_id=1), [Past([9] * 5, [1]), Past([9], [1, 1])]
    assert penalise(torch.zeros(2, 3), rules, pasts).isinf().tolist() == [[False, True, False], [False] * 3]
    assert penalise(torch.zeros(2, 3), Rules(rules.config), pasts).isfinite().all()


def test_likeliest() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -0.5], [-2.0, -1.0, -9.0]])
    assert sampling.likeliest(logprobs, 2) == [((2, -0.5), (0, -1.0)), ((1, -1.0), (0, -2.0))]
    assert sampling.likeliest(logprobs, 0) == [(), ()]
    assert [len(row) for row in sampling.likeliest(logprobs, 9)] == [3, 3]


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
        (sampling.typical_p(logits, 0.6), theirs.TypicalLogitsWarper(0.6)),
        (sampling.typical_p(logits, 0.999), theirs.TypicalLogitsWarper(0.999)),
    ]
    for ours, processor in pairs:
        assert torch.equal(ours, processor(ids, logits))
    cooler = theirs.TemperatureLogitsWarper(0.7)(ids, logits)
    torch.testing.assert_close(sampling.temperature(logits, 0.7).softmax(-1), cooler.softmax(-1))


@pytest.mark.parametrize("seed", range(5))
def test_rules_of_transformers(seed: int) -> None:
    """On few tokens, so that runs repeat."""
    from transformers.generation import logits_process as theirs

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 5, generator=generator)
    ids = torch.randint(0, 5, (8, 12), generator=generator)
    pasts = [Past(row[:9], row[9:]) for row in ids.tolist()]
    bias = (((1,), 0.7), ((0, 1), -2.0), ((3, 2, 4), 5.0), ((1, 0), -math.inf))
    pairs = [
        (
            penalise(logits, Rules(NEUTRAL.replace(no_repeat_ngram_size=n)), pasts),
            theirs.NoRepeatNGramLogitsProcessor(n),
        )
        for n in (1, 2, 3, 4)
    ]
    pairs += [
        (penalise(logits, Rules(NEUTRAL, bias), pasts), theirs.SequenceBiasLogitsProcessor(dict(bias))),
        (
            penalise(logits, Rules(NEUTRAL.replace(min_new_tokens=4), eos_id=2), pasts),
            theirs.MinNewTokensLengthLogitsProcessor(9, 4, 2),
        ),
        (
            penalise(logits, Rules(NEUTRAL.replace(min_new_tokens=3), eos_id=2), pasts),
            theirs.MinNewTokensLengthLogitsProcessor(9, 3, 2),
        ),
    ]
    for ours, processor in pairs:
        assert torch.equal(ours, processor(ids, logits.clone()))


def test_the_order_is_that_of_transformers() -> None:
    from transformers import GenerationConfig as HFConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    knobs = {
        "temperature": 0.6, "top_k": 60, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.9, "repetition_penalty": 1.4,
        "no_repeat_ngram_size": 2,
    }  # fmt: skip
    tiny = LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )  # fmt: skip
    processors = LlamaForCausalLM(tiny)._get_logits_processor(
        HFConfig(do_sample=True, **knobs), input_ids_seq_length=40
    )
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 300, generator=generator) * 2
    ids = torch.randint(0, 300, (8, 40), generator=generator)
    ours = process(logits, Rules(NEUTRAL.replace(**knobs)), [Past(row) for row in ids.tolist()])
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
    rules = Rules(GenerationConfig(min_p=0.01, top_k=100, typical_p=0.9, repetition_penalty=1.1))
    pasts = [Past([row], [row + 1]) for row in range(32)]
    together = sample(process(logits, rules, pasts), uniforms)
    alone = [sample(process(logits[i : i + 1], rules, pasts[i : i + 1]), uniforms[i : i + 1]).item() for i in range(32)]
    assert together.tolist() == alone

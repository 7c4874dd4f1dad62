"""The engine over models of `transformers` writes what their own `generate` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genkit import library
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig
from genkit.text.engines import TokenRequest
from genkit.text.engines.hub import HubTextEngine
from genkit.text.models.hub import load_hub, quiet_transformers

KINDS = ("gpt2", "llama", "qwen3", "gpt_neox", "t5", "bart", "marian")
PROMPTS = [[5, 9, 12, 7], [20, 11], [6, 6, 6, 13, 14, 15, 8, 21]]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def opened(hub_checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """The model of a kind, loaded once."""
    held: dict[str, Any] = {}

    def model(kind: str) -> Any:
        if kind not in held:
            folder = hub_checkpoint(kind)
            family = library.family(folder)
            held[kind] = load_hub(folder, "seq2seq" if family == "seq2seq" else "causal")
        return held[kind]

    return model


def engine_of(model: Any, runtime: Runtime) -> HubTextEngine:
    size = model.get_output_embeddings().weight.shape[0]
    return HubTextEngine(model, runtime, 64, lambda: [b"%d " % i for i in range(size)])


def written(engine: HubTextEngine, *requests: TokenRequest) -> list[list[int]]:
    """The tokens of each request."""
    found: list[list[int]] = [[] for _ in requests]
    for event in engine.generate(requests):
        assert event.error is None, event.error
        found[event.index].append(event.token)
    return found


def generated(model: Any, prompt: list[int], **settings: Any) -> list[list[int]]:
    """What `generate` writes, without the prompt and what fills up rows behind their end."""
    with quiet_transformers():
        rows = model.generate(torch.tensor([prompt]), do_sample=False, **settings)
    begun = 1 if model.config.is_encoder_decoder else len(prompt)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    texts = []
    for row in rows[:, begun:].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        texts.append(row[: stop + 1])
    return texts


@pytest.mark.parametrize("kind", KINDS)
def test_greedy(kind: str, opened: Callable[[str], Any], runtime: Runtime) -> None:
    model = opened(kind)
    config = GenerationConfig(temperature=0.0, max_new_tokens=20)
    engine = engine_of(model, runtime)
    found = written(engine, *(TokenRequest(prompt, config, 0) for prompt in PROMPTS))
    wanted = [generated(model, prompt, max_new_tokens=20)[0] for prompt in PROMPTS]
    assert found == wanted
    asked = [TokenRequest(prompt, config.replace(logprobs=0), 0) for prompt in PROMPTS]
    assert len({next(engine.generate([request])).logprob for request in asked}) == 3  # they depend on the prompt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("length_penalty", "early_stopping", "more"),
    [(2.0, False, {}), (0.5, True, {}), (1.0, True, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3})],
)
def test_beams(
    kind: str, length_penalty: float, early_stopping: bool, more: Any, opened: Callable[[str], Any], runtime: Runtime
) -> None:
    model = opened(kind)
    knobs = {"num_beams": 5, "length_penalty": length_penalty, "early_stopping": early_stopping, **more}
    config = GenerationConfig(n=3, max_new_tokens=12, **knobs)
    engine = engine_of(model, runtime)
    for prompt in PROMPTS[:2]:
        found = written(engine, *(TokenRequest(prompt, config, 0, rank=rank) for rank in range(3)))
        assert found == generated(model, prompt, max_new_tokens=12, num_return_sequences=3, **knobs)


@pytest.mark.parametrize("kind", ["gpt_neox", "bart"])
def test_a_row_depends_on_its_own_seed_alone(kind: str, opened: Callable[[str], Any], runtime: Runtime) -> None:
    engine = engine_of(opened(kind), runtime)
    config = GenerationConfig(temperature=1.0, max_new_tokens=10)
    together = written(engine, *(TokenRequest(PROMPTS[seed % 3], config, seed) for seed in range(6)))
    alone = [written(engine, TokenRequest(PROMPTS[seed % 3], config, seed))[0] for seed in (5, 2)]
    assert [together[5], together[2]] == alone
    assert together[0] != together[3]


def test_as_many_rows_as_are_asked_for_are_under_way(opened: Callable[[str], Any], runtime: Runtime) -> None:
    engine = engine_of(opened("gpt_neox"), runtime)
    config = GenerationConfig(temperature=1.0, max_new_tokens=3, min_new_tokens=3)
    for rows, order in ((64, [0, 1, 2] * 3), (2, [0, 1] * 3 + [2] * 3), (1, [0] * 3 + [1] * 3 + [2] * 3)):
        engine.rows = rows
        found = [e.index for e in engine.generate(TokenRequest(PROMPTS[0], config, seed) for seed in range(3))]
        assert found == order


@pytest.mark.parametrize("kind", ["gpt_neox", "t5", "bart"])
def test_what_the_generation_config_demands(
    kind: str, opened: Callable[[str], Any], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several ends of text, tokens that must or may not come, with greedy search and with beams."""
    model = opened(kind)
    plain = generated(model, PROMPTS[0], max_new_tokens=12)[0]
    demands = model.generation_config
    monkeypatch.setattr(demands, "eos_token_id", [plain[7], 16])
    monkeypatch.setattr(demands, "bad_words_ids", [[plain[1]], [plain[2], plain[3]]])
    monkeypatch.setattr(demands, "suppress_tokens", [18, 19])
    monkeypatch.setattr(demands, "forced_eos_token_id", 16)
    if kind != "gpt_neox":
        monkeypatch.setattr(demands, "forced_bos_token_id", 17)
        monkeypatch.setattr(demands, "begin_suppress_tokens", [plain[0]])
    engine = engine_of(model, runtime)
    greedy = written(engine, TokenRequest(PROMPTS[0], GenerationConfig(temperature=0.0, max_new_tokens=9), 0))
    assert greedy == generated(model, PROMPTS[0], max_new_tokens=9)
    assert greedy[0] != plain[:9]
    config = GenerationConfig(num_beams=4, max_new_tokens=9)
    beams = written(engine, TokenRequest(PROMPTS[0], config, 0))
    assert beams == generated(model, PROMPTS[0], max_new_tokens=9, num_beams=4)


def test_a_source_may_fill_the_context_but_not_more(opened: Callable[[str], Any], runtime: Runtime) -> None:
    engine = engine_of(opened("t5"), runtime)
    config = GenerationConfig(temperature=0.0, max_new_tokens=4)
    [event] = engine.generate([TokenRequest([5] * 65, config, 0)])
    assert event.error is not None
    assert event.error.message == "the prompt has 65 tokens and the model's context 64"
    assert written(engine, TokenRequest([5] * 63, config, 0))[0]

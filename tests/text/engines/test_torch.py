"""The torch engine: batches equal single rows, and every row follows its own seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.engines import TokenEvent, TokenRequest
from genkit.text.engines import rows as engine_module
from genkit.text.engines.torch import TorchTextEngine
from genkit.text.models.gpt import GPT
from genkit.text.models.layout import to_hf_state
from genkit.text.sampling import Past, Rules, process, sample

VOCAB, BLOCK, EOS = 61, 48, 0
GREEDY = GenerationConfig(temperature=0, max_new_tokens=12, min_new_tokens=12)
RANDOM = GenerationConfig(temperature=1.0, top_p=0.9, max_new_tokens=12, min_new_tokens=12)


def config(arch: str = "qwen3", **changes: Any) -> GPTConfig:
    base = GPTConfig(
        arch=arch, vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=4, n_kv_head=4 if arch == "gpt2" else 2,
        n_embd=32, head_dim=8, n_inner=48, eos_id=EOS,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def build(arch: str = "qwen3", **changes: Any) -> GPT:
    """Random weights, far enough from zero that what comes next depends on what came before."""
    torch.manual_seed(0)
    model = GPT(config(arch, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.5, 0.3) if p.ndim == 1 else p.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def model() -> GPT:
    return build()


@pytest.fixture(scope="module")
def engine(model: GPT, runtime: Runtime) -> TorchTextEngine:
    return TorchTextEngine(model, runtime)


def request(prompt: list[int], knobs: GenerationConfig = RANDOM, seed: int = 0, **changes: Any) -> TokenRequest:
    return TokenRequest(prompt, knobs.replace(**changes), seed)


def rows(events: list[TokenEvent], n: int) -> list[list[int]]:
    return [[e.token for e in events if e.index == i] for i in range(n)]


def run(engine: TorchTextEngine, *requests: TokenRequest) -> list[list[int]]:
    return rows(list(engine.generate(requests)), len(requests))


@torch.no_grad()
def by_hand(model: GPT, wanted: TokenRequest) -> list[int]:
    """The same text by full passes without a cache."""
    random = np.random.Generator(np.random.Philox(key=np.array([wanted.seed, 0], dtype=np.uint64)))
    past, rules = Past(wanted.prompt), Rules(wanted.config, wanted.bias, eos_id=EOS)
    for _ in range(min(wanted.config.max_new_tokens, BLOCK - len(wanted.prompt))):
        logits = process(model(torch.tensor([past.tokens]))[:, -1], rules, [past])
        if wanted.config.temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(sample(logits, torch.tensor([random.random()], dtype=torch.float64)))
        past.text.append(token)
        if token == EOS:
            break
    return past.text


@pytest.mark.parametrize("arch", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize(
    "knobs",
    [
        GREEDY,
        RANDOM,
        GREEDY.replace(repetition_penalty=1.5),
        RANDOM.replace(repetition_penalty=1.3, frequency_penalty=0.7, presence_penalty=0.4, top_k=20, min_p=0.01),
        RANDOM.replace(min_new_tokens=3, max_new_tokens=40, temperature=2.0),
        RANDOM.replace(typical_p=0.8, no_repeat_ngram_size=2, temperature=0.5),
    ],
)
def test_a_ragged_batch_equals_full_passes(arch: str, knobs: GenerationConfig, runtime: Runtime) -> None:
    model = build(arch)
    requests = [request(p, knobs, seed) for seed, p in enumerate([[5], [7, 8, 9, 10, 11, 12], [7, 8], [7, 8]])]
    assert run(TorchTextEngine(model, runtime), *requests) == [by_hand(model, r) for r in requests]


def test_rows_with_other_settings_share_a_batch(engine: TorchTextEngine, model: GPT) -> None:
    requests = [
        request([3, 4], GREEDY, max_new_tokens=12),
        request([3, 4], RANDOM, seed=1),
        request([9] * 10, RANDOM, seed=2, top_k=5, max_new_tokens=20),
        request([3, 4], RANDOM, seed=3, repetition_penalty=2.0),
    ]
    assert run(engine, *requests) == [by_hand(model, r) for r in requests]


def test_a_sample_depends_on_its_seed_alone(engine: TorchTextEngine) -> None:
    together = run(engine, *(request([3, 4, 5], seed=i) for i in range(8)))
    assert run(engine, request([3, 4, 5], seed=6)) == [together[6]]
    assert run(engine, *(request([3, 4, 5], seed=i) for i in (6, 2))) == [together[6], together[2]]
    assert len({tuple(row) for row in together}) == 8
    assert run(engine, request([3, 4, 5], seed=2**64 - 1)) != [together[0]]


def test_a_sample_does_not_depend_on_the_global_generators(engine: TorchTextEngine) -> None:
    torch.manual_seed(1)
    first = run(engine, request([3], seed=1))
    torch.manual_seed(2)
    assert run(engine, request([3], seed=1)) == first


def test_more_rows_than_there_is_room_for(
    model: GPT, runtime: Runtime, engine: TorchTextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [request([3, 4], seed=i) for i in range(7)]
    together = run(engine, *requests)
    monkeypatch.setattr(engine_module, "CACHE_BYTES", 1)  # room for one row and no more
    events = list(TorchTextEngine(model, runtime).generate(requests))
    assert rows(events, 7) == together
    assert [e.index for e in events] == sorted(e.index for e in events)


def test_requests_are_pulled_as_there_is_room(engine: TorchTextEngine) -> None:
    """A row that is done makes room, so an endless source will do."""
    pulled = 0

    def endless() -> Iterator[TokenRequest]:
        nonlocal pulled
        while True:
            pulled += 1
            yield request([3], seed=pulled, max_new_tokens=12 + pulled % 7)

    ended = 0
    for event in engine.generate(endless()):
        ended += event.done is not None
        assert pulled - ended <= 64 + 2
        if ended == 150:
            break
    assert pulled >= 150


def test_events_come_row_by_row_as_they_are_drawn(engine: TorchTextEngine) -> None:
    events = engine.generate([request([3], seed=i) for i in range(3)])
    assert [next(events).index for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_length_ends_a_row(engine: TorchTextEngine) -> None:
    requests = [request([3], min_new_tokens=0, max_new_tokens=n, temperature=0) for n in (1, 5)]
    events = list(engine.generate(requests))
    assert [e.done for e in events if e.index == 0] == ["length"]
    assert [e.done for e in events if e.index == 1] == [None] * 4 + ["length"]


@pytest.mark.parametrize(("prompt", "new"), [(BLOCK - 1, 1), (BLOCK - 5, 5), (1, BLOCK - 1)])
def test_the_context_ends_a_row(engine: TorchTextEngine, prompt: int, new: int) -> None:
    limits = {"max_new_tokens": 1000, "min_new_tokens": 1000}
    events = list(engine.generate([request([3] * prompt, **limits), request([4], seed=5, **limits)]))
    assert [e.done for e in events if e.index == 0] == [None] * (new - 1) + ["length"]
    assert len(events) == new + BLOCK - 1


def test_end_of_text_ends_a_row_and_is_reported(runtime: Runtime) -> None:
    model = build()
    texts = {seed: by_hand(model, request([3], seed=seed, min_new_tokens=0)) for seed in range(9)}
    seed, wanted = next((seed, text) for seed, text in texts.items() if EOS not in text)
    stopper = next(t for i, t in enumerate(wanted) if i > 2 and t not in wanted[:i])
    wanted = wanted[: wanted.index(stopper)]
    model.config = dataclasses.replace(model.config, eos_id=stopper)
    engine = TorchTextEngine(model, runtime)
    events = list(
        engine.generate([request([3], seed=seed, min_new_tokens=0), request([9, 9], seed=1, min_new_tokens=0)])
    )
    assert [(e.token, e.done) for e in events if e.index == 0] == [(t, None) for t in wanted] + [(stopper, "eos")]


def test_logprobs_only_where_they_are_asked_for(engine: TorchTextEngine) -> None:
    plain, asked = (request([3, 4], GREEDY, logprobs=n) for n in (None, 3))
    events = list(engine.generate([plain, asked]))
    assert {(e.logprob, e.top) for e in events if e.index == 0} == {(None, ())}
    for event in (e for e in events if e.index == 1):
        assert event.logprob == event.top[0][1] or event.token == event.top[0][0]
        assert [logprob for _, logprob in event.top] == sorted((p for _, p in event.top), reverse=True)
        assert len({token for token, _ in event.top}) == 3


def test_no_end_of_text_before_min_new_tokens(runtime: Runtime) -> None:
    model = build(tie_embeddings=False)
    with torch.no_grad():  # end of text is nearly certain at every step
        model.norm.weight.fill_(1.0)
        model.embed.weight.fill_(1.0)
        for block in model.blocks:
            block.attn.o.weight.zero_()
            block.mlp.down.weight.zero_()
        model.lm_head.weight.zero_()[EOS] = 1.0
    engine = TorchTextEngine(model, runtime)
    events = list(
        engine.generate([request([3], GREEDY, min_new_tokens=6), request([4], RANDOM, seed=1, min_new_tokens=2)])
    )
    assert [e.token == EOS for e in events if e.index == 0] == [False] * 6 + [True]
    assert [e.token == EOS for e in events if e.index == 1] == [False] * 2 + [True]


def test_a_model_without_end_of_text(runtime: Runtime) -> None:
    events = list(TorchTextEngine(build(eos_id=None), runtime).generate([request([3], max_new_tokens=20)]))
    assert [e.done for e in events] == [None] * 19 + ["length"]


def test_the_consumer_ends_rows(engine: TorchTextEngine) -> None:
    requests = [request([3, 4], seed=i) for i in range(3)]
    alone = run(engine, *(request([3, 4], seed=i) for i in range(3)))
    got: list[TokenEvent] = []
    for event in engine.generate(requests):
        got.append(event)
        if len(got) == 4:  # row 0's second token
            requests[0].finished = requests[2].finished = True
    assert [len(row) for row in rows(got, 3)] == [2, 12, 1]
    assert rows(got, 3)[1] == alone[1]
    for each in requests:
        each.finished = True
    assert list(engine.generate(requests)) == []


def test_logprob_is_the_models_own(engine: TorchTextEngine, model: GPT) -> None:
    wanted = request([3, 4], RANDOM, seed=3, temperature=0.5, repetition_penalty=1.5, top_k=4, logprobs=0)
    events = list(engine.generate([wanted]))
    ids = torch.tensor([[3, 4] + [e.token for e in events]])
    with torch.no_grad():
        logprobs = model(ids[:, :-1])[0, 1:].log_softmax(-1).gather(1, ids[0, 2:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor([e.logprob for e in events]), logprobs, atol=1e-4, rtol=0)


def test_greedy_text_of_transformers(tmp_path: Any, runtime: Runtime) -> None:
    import json

    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = build("llama")
    save_file(to_hf_state(model), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_hf()))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = [5, 6, 7, 8]
    knobs = {"max_new_tokens": 20, "min_new_tokens": 20, "repetition_penalty": 1.2}
    text = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 4), do_sample=False, pad_token_id=EOS, **knobs
    )
    assert run(TorchTextEngine(model, runtime), request(prompt, GREEDY, **knobs)) == [text[0, 4:].tolist()]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "no tokens"),
        ([1] * BLOCK, f"the prompt has {BLOCK} tokens and the model's context {BLOCK}"),
        ([1, VOCAB], f"token {VOCAB} of the prompt is not in the model's vocabulary"),
        ([-1], "token -1 of the prompt"),
    ],
)
def test_a_bad_prompt_ends_its_own_row(engine: TorchTextEngine, prompt: list[int], message: str) -> None:
    alone = run(engine, request([3]))
    events = list(engine.generate([request(prompt), request([3]), request(prompt)]))
    assert [(e.index, e.done) for e in events if e.error] == [(0, "error"), (2, "error")]
    assert all(message in str(e.error) for e in events if e.error)
    assert [[e.token for e in events if e.index == 1]] == alone


def test_text_is_not_for_this_engine(engine: TorchTextEngine) -> None:
    (event,) = engine.generate([TokenRequest("text", RANDOM, 0)])
    assert "reads token ids" in str(event.error)


def test_rules_that_leave_no_token_end_their_row(engine: TorchTextEngine) -> None:
    alone = run(engine, request([3]))
    nothing = tuple(((token,), -math.inf) for token in range(VOCAB))
    for knobs in (GREEDY, RANDOM, RANDOM.replace(num_beams=2)):
        events = list(engine.generate([request([3]), TokenRequest([3], knobs, 0, bias=nothing)]))
        assert [e.done for e in events if e.index == 1] == ["error"]
        assert [[e.token for e in events if e.index == 0]] == alone


def test_bad_words_need_the_texts_of_tokens(model: GPT, runtime: Runtime, engine: TorchTextEngine) -> None:
    (event,) = engine.generate([request([3], bad_word=("ab",))])
    assert "--bad-word" in str(event.error)
    pieces = [None, *(bytes([97 + i % 3]) for i in range(1, VOCAB))]  # every token is a, b or c
    writer = TorchTextEngine(model, runtime, lambda: pieces)
    texts = run(
        writer, *(request([1, 2], RANDOM, seed, bad_word=("ab", "ca", "cc"), temperature=2) for seed in range(9))
    )
    for text in texts:
        written = b"bc" + b"".join(pieces[token] or b"" for token in text)
        assert not any(word in written for word in (b"ab", b"ca", b"cc"))


def test_damaged_weights_are_told(runtime: Runtime) -> None:
    model = build()
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="not finite"):
        next(TorchTextEngine(model, runtime).generate([request([3])]))


def test_nothing_to_do(engine: TorchTextEngine) -> None:
    assert list(engine.generate([])) == []


def test_modes_of_torch_do_not_leak_to_the_consumer(engine: TorchTextEngine) -> None:
    for _ in engine.generate([request([3], max_new_tokens=13)]):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_dropout_is_off(runtime: Runtime) -> None:
    torch.manual_seed(0)
    model = GPT(config(), dropout=0.5).train()
    assert run(TorchTextEngine(model, runtime), request([3])) == run(TorchTextEngine(model, runtime), request([3]))


def test_bf16_is_near_fp32(model: GPT) -> None:
    """Same text while the likeliest token leads clearly."""
    with Runtime(Placement(device="cpu", precision="bf16", engine="torch", why="test")) as half:
        events = list(
            TorchTextEngine(model, half).generate(
                [request(prompt, GREEDY, logprobs=0) for prompt in ([3, 4], [5, 6, 7])]
            )
        )
    for index, prompt in enumerate([[3, 4], [5, 6, 7]]):
        row = [e for e in events if e.index == index]
        ids = torch.tensor([prompt + [e.token for e in row]])
        with torch.no_grad():
            logprobs = model(ids[:, :-1])[0, len(prompt) - 1 :].log_softmax(-1)
        for event, exact in zip(row, logprobs, strict=True):
            assert event.logprob == pytest.approx(exact[event.token].item(), abs=0.15)


def test_bias_moves_the_last_token_of_a_sequence(engine: TorchTextEngine) -> None:
    knobs = GREEDY.replace(max_new_tokens=8, min_new_tokens=8)
    bias = (((7,), -math.inf), ((9, 5), 50.0), ((5, 9), 50.0), ((4, 4), 90.0))
    (text,) = run(engine, TokenRequest([3, 9], knobs, 0, bias=bias))
    assert text == [5, 9] * 4


def test_beams_come_when_the_search_is_over(engine: TorchTextEngine) -> None:
    knobs = GREEDY.replace(num_beams=4, n=3, logprobs=2)
    requests = [TokenRequest([3, 4], knobs, 0, rank) for rank in (0, 1, 2)]
    events = list(engine.generate([requests[0], request([5]), *requests[1:]]))
    assert rows(list(engine.generate(requests)), 3) == [rows(events, 4)[i] for i in (0, 2, 3)]
    assert len({tuple(row) for row in rows(events, 4)}) == 4
    for index in (0, 2, 3):
        own = [e for e in events if e.index == index]
        assert [e.done for e in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].done in ("eos", "length")
        assert all(e.logprob is not None and len(e.top) == 2 for e in own)


def test_a_search_is_done_once(engine: TorchTextEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = engine_module.beam_search
    monkeypatch.setattr(engine_module, "beam_search", lambda *a, **more: searches.append(a) or search(*a, **more))
    knobs = GREEDY.replace(num_beams=3, n=3)
    list(engine.generate([TokenRequest([3, 4], knobs, 0, rank) for rank in (0, 1, 2)]))
    assert len(searches) == 1
    list(engine.generate([TokenRequest([3, i], knobs, 0) for i in (4, 5)]))
    assert len(searches) == 3


def test_streams_of_one_engine_do_not_meet(engine: TorchTextEngine) -> None:
    alone = run(engine, request([3, 4], seed=1)), run(engine, request([5], seed=2))
    one, other = engine.generate([request([3, 4], seed=1)]), engine.generate([request([5], seed=2)])
    pairs = list(zip(one, other, strict=True))
    assert [e.token for e, _ in pairs] == alone[0][0]
    assert [e.token for _, e in pairs] == alone[1][0]


def test_the_model_is_left_as_it_was(runtime: Runtime) -> None:
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = TorchTextEngine(model, runtime)
    run(engine, request([3]))
    engine.close()
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

"""Beams are those of `transformers`: the same tokens in the same order with the same scores."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.text.config import ARCHITECTURES, GenerationConfig, GPTConfig
from genkit.text.engines.beams import Beam, beam_search
from genkit.text.engines.decoder import Decoder, for_decoding
from genkit.text.models.gpt import GPT
from genkit.text.models.layout import to_hf_state
from genkit.text.sampling import Rules

VOCAB, EOS = 31, 2


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        yield runtime


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT, Any]:
    """A model that ends texts now and then, and the same in transformers."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    config = GPTConfig(
        arch=request.param, vocab_size=VOCAB, block_size=64, n_layer=2, n_head=4,
        n_kv_head=4 if request.param == "gpt2" else 2, n_embd=32, head_dim=8, n_inner=48,
        tie_embeddings=False, eos_id=EOS,
    )  # fmt: skip
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.5, 0.3) if p.ndim == 1 else p.normal_(0, 0.25)
        model.lm_head.weight *= 0.5
        usual = model.hidden(torch.randint(VOCAB, (50, 20))).mean((0, 1))
        model.lm_head.weight[EOS] += 3.5 * usual / usual.square().sum()  # its logit rises by 3.5 on average
    folder = tmp_path_factory.mktemp("beams")
    save_file(to_hf_state(model), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_hf()))
    return model, AutoModelForCausalLM.from_pretrained(folder).eval()


def search(model: GPT, runtime: Runtime, prompt: list[int], config: GenerationConfig, limit: int) -> list[Beam]:
    decoder = Decoder(for_decoding(model, runtime), runtime, [config.num_beams])
    return beam_search(decoder, prompt, Rules(config, eos_id=model.config.eos_id), limit)


def cases(n: int) -> list[dict[str, Any]]:
    draw = random.Random(7)
    return [
        {
            "num_beams": draw.choice([2, 3, 4, 8]),
            "length_penalty": draw.choice([-1.0, 0.0, 0.5, 1.0, 2.0]),
            "early_stopping": draw.random() < 0.5,
            "max_new_tokens": draw.choice([1, 5, 12, 20]),
            "repetition_penalty": draw.choice([1.0, 1.0, 1.4]),
            "no_repeat_ngram_size": draw.choice([0, 0, 2, 3]),
            "min_new_tokens": draw.choice([0, 0, 1, 4]),
            "prompt": [draw.randrange(3, VOCAB) for _ in range(draw.randint(1, 9))],
        }
        for _ in range(n)
    ]


@pytest.mark.parametrize("part", range(4))
def test_beams_of_transformers(pair: tuple[GPT, Any], runtime: Runtime, part: int) -> None:
    model, theirs = pair
    ends = 0
    for case in itertools.islice(cases(60), part, None, 4):
        prompt = case.pop("prompt")
        case["min_new_tokens"] = min(case["min_new_tokens"], case["max_new_tokens"])
        beams = search(model, runtime, prompt, GenerationConfig(n=case["num_beams"], **case), case["max_new_tokens"])
        knobs = {name: value for name, value in case.items() if not (name == "repetition_penalty" and value == 1)}
        out = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, pad_token_id=EOS,
            num_return_sequences=case["num_beams"], return_dict_in_generate=True, output_scores=True, **knobs,
        )  # fmt: skip
        wanted = [row[: row.index(EOS) + 1] if EOS in row else row for row in out.sequences[:, len(prompt) :].tolist()]
        assert [list(beam.text) for beam in beams] == wanted, case
        torch.testing.assert_close(
            torch.tensor([beam.score for beam in beams]), out.sequences_scores, atol=1e-5, rtol=1e-6
        )
        ends += sum(EOS in row for row in wanted)
    assert ends > 10  # or the conditions to end were not tried


@torch.no_grad()
def test_the_widest_search_finds_the_likeliest_text(pair: tuple[GPT, Any], runtime: Runtime) -> None:
    """With as many beams as there are texts it is exhaustive."""
    model, _ = pair
    config = GenerationConfig(num_beams=256, length_penalty=0.0, max_new_tokens=2, logprobs=1)
    beams = search(model, runtime, [5, 6], config, 2)
    first = model(torch.tensor([[5, 6]]))[0, -1].log_softmax(-1)
    texts = torch.tensor([[5, 6, token] for token in range(VOCAB)])
    second = model(texts)[:, -1].log_softmax(-1)
    scores = {(a, b): (first[a] + second[a, b]).item() for a in range(VOCAB) for b in range(VOCAB) if a != EOS}
    scores[EOS,] = first[EOS].item()
    best = sorted(scores, key=lambda text: -scores[text])[:100]
    assert [beam.text for beam in beams[:100]] == best
    for beam in beams[:5]:
        assert sum(beam.logprobs) == pytest.approx(beam.score, abs=1e-4)
        assert beam.tops[0][0] == (int(first.argmax()), pytest.approx(first.max().item(), abs=1e-4))


def test_scores_are_after_penalties_and_logprobs_before(pair: tuple[GPT, Any], runtime: Runtime) -> None:
    model, _ = pair
    config = GenerationConfig(num_beams=2, repetition_penalty=3.0, max_new_tokens=8, logprobs=0)
    for beam in search(model, runtime, [5, 6], config, 8):
        assert beam.score * len(beam.text) < sum(beam.logprobs) - 0.1 or len(set(beam.text)) == len(beam.text)
        assert len(beam.logprobs) == len(beam.text)
        assert all(math.isfinite(p) and p <= 0 for p in beam.logprobs)

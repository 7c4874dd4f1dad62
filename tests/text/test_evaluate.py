import math

import numpy as np
import pytest
import torch

from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.config import GPTConfig
from genkit.text.evaluate import evaluate
from genkit.text.models.gpt import GPT

CONFIG = GPTConfig(vocab_size=16, block_size=8, n_layer=1, n_head=1, n_kv_head=1, n_embd=8, head_dim=8, n_inner=16)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary() -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        model.embed.weight.zero_()  # every logit is zero
    tokens = np.arange(100, dtype=np.uint16) % 16
    found = evaluate(
        model, tokens, Runtime(resolve("cpu", task="text")), bytes_per_token=2.0, max_tokens=10**6, batch_size=5
    )
    assert found["val_loss"] == pytest.approx(math.log(16), abs=1e-5)
    assert found["val_ppl"] == pytest.approx(16, rel=1e-4)
    assert found["val_bpb"] == pytest.approx(2.0, abs=1e-5)  # 4 bits a token of 2 bytes
    assert model.training


def test_it_is_the_mean_over_all_windows() -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    tokens = np.random.default_rng(0).integers(0, 16, 41).astype(np.uint16)  # five windows of eight
    runtime = Runtime(resolve("cpu", task="text"))
    found = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=10**6, batch_size=2)
    losses = [
        model.loss(*(torch.from_numpy(tokens[i + k : i + k + 8].astype(np.int64))[None] for k in (0, 1))).item()
        for i in range(0, 40, 8)
    ]
    assert found["val_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    few = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=16, batch_size=2)
    assert few["val_loss"] == pytest.approx(np.mean([losses[0], losses[-1]]), abs=1e-5)

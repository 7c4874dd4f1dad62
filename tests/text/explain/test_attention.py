"""Attention weights: what the module does with them, and what `transformers` says they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genkit.text.config import ARCHITECTURES, GPTConfig
from genkit.text.explain.attention import attention_maps, weights
from genkit.text.models.gpt import GPT, rope_table
from genkit.text.models.layout import to_hf_state

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])


def model(arch: str, kv: int = 2) -> GPT:
    torch.manual_seed(0)
    shape = GPTConfig(
        arch=arch,
        vocab_size=13,
        block_size=16,
        n_layer=2,
        n_head=4,
        n_kv_head=4 if arch == "gpt2" else kv,
        n_embd=32,
        head_dim=8,
        n_inner=48,
        bos_id=0,
        eos_id=0,
    )
    made = GPT(shape)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3)
    return made.eval()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_weights_times_values_is_what_the_module_makes(arch: str) -> None:
    gpt = model(arch)
    layer: Any = gpt.blocks[0].attn
    x = torch.randn(1, 11, 32, generator=torch.Generator().manual_seed(1))
    rope = None if arch == "gpt2" else rope_table(torch.arange(11), 8, gpt.config.rope_theta)
    made = weights(layer, x, rope)
    values: Tensor = layer.v(x).view(1, 11, -1, 8).transpose(1, 2)
    values = values.repeat_interleave(4 // values.shape[1], dim=1)
    mixed = layer.o((made @ values).transpose(1, 2).reshape(1, 11, -1))
    expected = layer(x, rope, None, 0, torch.arange(11), None)
    assert (mixed - expected).abs().max() <= 1e-6 * expected.abs().max().clamp_min(1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_maps_are_those_of_transformers(arch: str) -> None:
    transformers = pytest.importorskip("transformers")
    gpt = model(arch)
    config = transformers.AutoConfig.for_model(**gpt.config.to_hf(), attn_implementation="eager")
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.load_state_dict({**theirs.state_dict(), **to_hf_state(gpt)})
    with torch.no_grad():
        expected = torch.cat(theirs(IDS, output_attentions=True).attentions)  # (L, H, T, T)
    found = attention_maps(gpt, IDS)
    assert found.shape == (2, 4, 11, 11)
    assert (found - expected).abs().max() < 1e-5


def test_rows_add_up_and_nobody_sees_the_future() -> None:
    found = attention_maps(model("qwen3"), IDS)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4, 11))
    assert not found.triu(1).any()
    assert found.requires_grad is False

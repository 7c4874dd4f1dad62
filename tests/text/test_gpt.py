"""The GPT equals `transformers`, its cached decoding equals its full pass, its loss equals torch's."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from genkit.errors import InputError
from genkit.text import losses
from genkit.text.config import ARCHITECTURES, GPTConfig
from genkit.text.models.gpt import GPT, INIT_STD, attend, count_parameters, rope_table, rotate
from genkit.text.models.layout import from_hf_state, load_hf_state, to_hf_state

# arch, tied head, key-value heads of 4
VARIANTS = [(a, tie, kv) for a in ARCHITECTURES for tie in (True, False) for kv in ((4,) if a == "gpt2" else (4, 2, 1))]


def shape(arch: str = "qwen3", tie: bool = True, kv: int = 4, **changes: Any) -> GPTConfig:
    base = GPTConfig(
        arch=arch,
        vocab_size=97,
        block_size=32,
        n_layer=3,
        n_head=4,
        n_kv_head=kv,
        n_embd=32,
        head_dim=12 if arch == "qwen3" else 8,  # qwen3's heads need not fill the width
        n_inner=56,
        tie_embeddings=tie,
        bos_id=0,
        eos_id=0,
    )
    return dataclasses.replace(base, **changes)


def noisy(config: GPTConfig, seed: int = 0) -> GPT:
    """A model in eval mode in which every parameter matters, biases, norms and residual projections too."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3, 0.4)
    return model


def tokens(rows: int = 3, length: int = 17, seed: int = 1) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def write(model: GPT, folder: Path) -> None:
    save_file(to_hf_state(model), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_hf()))


# --- the layout of transformers ---------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "tie", "kv"), VARIANTS)
@torch.no_grad()
def test_transformers_reads_what_we_write(arch: str, tie: bool, kv: int, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, ids = noisy(shape(arch, tie, kv)), tokens()
    write(model, tmp_path)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())  # nothing missing, unexpected, mismatched
    torch.testing.assert_close(model(ids), theirs.eval()(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("arch", "tie", "kv"), VARIANTS)
@torch.no_grad()
def test_we_read_what_transformers_writes(arch: str, tie: bool, kv: int, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = shape(arch, tie, kv)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    torch.manual_seed(2)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0.2, 0.4)
    theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model = from_hf_state(GPTConfig.from_hf(json.loads((tmp_path / "config.json").read_text())), stored).eval()
    ids = tokens()
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    ours = to_hf_state(model)
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[name], stored[name]) and ours[name].is_contiguous() for name in stored)


def test_gpt2_as_first_published_loads() -> None:
    """The checkpoint `gpt2` has no `transformer.` prefix, and stores its masks."""
    model = noisy(shape("gpt2"))
    old = {name.removeprefix("transformer."): tensor for name, tensor in to_hf_state(model).items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32) for i in range(3)}
    assert torch.equal(from_hf_state(model.config, old).eval()(tokens()), model(tokens()))


def test_a_copy_of_a_tied_head_is_accepted_and_another_head_is_not() -> None:
    model = noisy(shape())
    state = to_hf_state(model)
    load_hf_state(model, state | {"lm_head.weight": model.embed.weight.detach().clone()})
    with pytest.raises(InputError, match=r"unexpected lm_head\.weight"):
        load_hf_state(model, state | {"lm_head.weight": torch.zeros(97, 32)})


def test_half_precision_weights_become_fp32() -> None:
    model = noisy(shape("llama"))
    half = {name: tensor.bfloat16() for name, tensor in to_hf_state(model).items()}
    loaded = from_hf_state(model.config, half)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.norm.weight, half["model.norm.weight"].float())


def test_loading_names_what_does_not_fit_and_changes_nothing() -> None:
    model = noisy(shape("llama"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in to_hf_state(model).items()}
    del state["model.layers.1.mlp.up_proj.weight"]
    state["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    state["model.norm.weight"] = torch.ones(31)
    state["model.layers.2.self_attn.v_proj.weight"] = torch.zeros(32, 32, dtype=torch.int64)
    with pytest.raises(InputError) as caught:
        load_hf_state(model, state)
    text = caught.value.message
    assert "missing model.layers.1.mlp.up_proj.weight" in text
    assert "unexpected model.layers.0.self_attn.q_norm.weight" in text
    assert "model.norm.weight is torch.float32 [31], not [32]" in text
    assert "model.layers.2.self_attn.v_proj.weight is torch.int64" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_complaints_are_cut() -> None:
    with pytest.raises(InputError, match=r"missing .*, .*, .* and 32 more "):
        load_hf_state(GPT(shape()), {})


def test_weights_that_cannot_hold_the_config_are_refused_before_memory_is_taken() -> None:
    state = to_hf_state(GPT(shape()))
    greedy = shape(n_layer=40, n_embd=16384, n_inner=16384)  # 210 GB
    with pytest.raises(InputError, match="parameters, the weights hold"):
        from_hf_state(greedy, state)


# --- size and start ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "tie", "kv"), VARIANTS)
def test_count_parameters_needs_no_model(arch: str, tie: bool, kv: int) -> None:
    config = shape(arch, tie, kv)
    assert count_parameters(config) == GPT(config).num_parameters() == sum(t.numel() for t in GPT(config).parameters())


def test_published_sizes() -> None:
    gpt2 = GPTConfig(
        arch="gpt2", vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_kv_head=12, n_embd=768,
        head_dim=64, n_inner=3072,
    )  # fmt: skip
    qwen3 = GPTConfig(
        arch="qwen3", vocab_size=151936, block_size=40960, n_layer=28, n_head=16, n_kv_head=8, n_embd=1024,
        head_dim=128, n_inner=3072,
    )  # fmt: skip
    assert count_parameters(gpt2) == 124_439_808
    assert count_parameters(qwen3) == 596_049_920
    with torch.device("meta"):
        assert GPT(qwen3).num_parameters() == 596_049_920


def test_absurd_configs_are_refused() -> None:
    with pytest.raises(InputError, match="parameters are too many to build"):
        GPT(shape(n_embd=1 << 24, n_inner=1 << 24))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_initial_weights(arch: str) -> None:
    torch.manual_seed(0)
    head_dim = 32
    model = GPT(shape(arch, tie=False, n_embd=128, head_dim=head_dim, n_inner=512, vocab_size=1000))
    residual = 0.02 / math.sqrt(6) if arch == "gpt2" else 0.0
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert p.eq(0).all()
        elif p.ndim == 1:
            assert p.eq(1).all()
        else:
            wanted = residual if name.endswith(("attn.o.weight", "mlp.down.weight")) else INIT_STD
            assert p.std().item() == pytest.approx(wanted, rel=0.05)
    loss = model.loss(torch.randint(0, 1000, (4, 32)), torch.randint(0, 1000, (4, 32)))
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)


def test_hidden_matrices_are_apart_from_embeddings() -> None:
    """Optimisers tell them apart so: 2-D inside `blocks`."""
    two_d = {n for n, p in GPT(shape("gpt2", tie=False)).named_parameters() if p.ndim == 2 and "blocks" not in n}
    assert two_d == {"embed.weight", "positions.weight", "lm_head.weight"}


# --- forward ----------------------------------------------------------------------------------------


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(at_q: int, at_k: int) -> float:
        turned = (
            rotate(q, *rope_table(torch.tensor([at_q]), 8, 100.0)),
            rotate(k, *rope_table(torch.tensor([at_k]), 8, 100.0)),
        )
        assert turned[0].norm().item() == pytest.approx(q.norm().item(), rel=1e-5)
        return float((turned[0] * turned[1]).sum())

    assert score(7, 4) == pytest.approx(score(23, 20), abs=1e-4)
    assert score(7, 4) != pytest.approx(score(7, 5), abs=1e-2)
    assert torch.equal(rotate(q, *rope_table(torch.tensor([0]), 8, 100.0)), q)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_a_token_does_not_see_the_future(arch: str) -> None:
    model, ids = noisy(shape(arch)), tokens()
    other = ids.clone()
    other[:, 9] = (ids[:, 9] + 1) % 97
    a, b = model(ids), model(other)
    assert torch.equal(a[:, :9], b[:, :9])
    assert (a[:, 9:] != b[:, 9:]).any(-1).all()


@pytest.mark.parametrize("kv", [4, 2])
def test_attention_by_matrix_products_is_attention(kv: int) -> None:
    """The CPU's own path in bf16, against torch's kernel in fp32, with gradients."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 33, 16) for heads in (4, kv, kv))
    exact = [t.clone().requires_grad_() for t in (q, k, v)]
    rough = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    a = attend(exact[0], exact[1], exact[2])
    b = attend(rough[0], rough[1], rough[2])
    assert b.dtype == torch.bfloat16
    torch.testing.assert_close(b.float(), a, atol=0.03, rtol=0.03)
    weight = torch.randn_like(a)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for x, y in zip(exact, rough, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert (y.grad.float() - x.grad).norm() < 0.02 * x.grad.norm()


@torch.no_grad()
def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, ids = GPT(shape(), dropout=0.5), tokens()
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(InputError, match="33 tokens do not fit a context of 32"):
        GPT(shape())(tokens(1, 33))


# --- loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 512])
def test_loss_and_gradients_equal_torch(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MIN_ROWS", rows)
    monkeypatch.setattr(losses, "CPU_ELEMENTS", 0)
    model, ids, targets = noisy(shape()), tokens(), tokens(seed=3)
    targets[0, :5] = targets[2, -1] = -100
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    loss = model.loss(ids, targets)
    (loss * 3).backward()  # a factor, as accumulation and gradient scaling have
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    wanted = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    (wanted * 3).backward()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, atol=1e-4, rtol=1e-4)


def test_loss_gradient_in_double_precision() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    targets = torch.tensor([0, 10, -100, 3, 3, -100, 7])
    losses.linear_cross_entropy(hidden, weight, targets).backward()
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    F.cross_entropy(h @ w.T, targets).backward()
    torch.testing.assert_close(hidden.grad, h.grad.float())  # type: ignore[union-attr]
    torch.testing.assert_close(weight.grad, w.grad.float())  # type: ignore[union-attr]


@pytest.mark.parametrize(("rows", "vocabulary"), [(4096, 4096), (20_000, 7)])
def test_fp16_gradients_of_many_rows_neither_vanish_nor_overflow(rows: int, vocabulary: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 16).half() + 6, torch.randn(vocabulary, 16).half() * 0.1
    weight[0] = -1  # the unlikeliest token, so that its gradients add up
    targets = torch.randint(vocabulary, (rows,)) if vocabulary > 7 else torch.zeros(rows, dtype=torch.int64)
    got, wanted = [], []
    for dtype, gradients, factor in ((torch.float16, got, 1024.0), (torch.float64, wanted, 1.0)):
        h, w = (t.to(dtype, copy=True).requires_grad_() for t in (hidden, weight))
        if dtype is torch.float16:
            loss = losses.linear_cross_entropy(h, w, targets)
        else:
            loss = F.cross_entropy(h @ w.T, targets)
        (loss * factor).backward()
        gradients += [h.grad.double() / factor, w.grad.double() / factor]  # type: ignore[union-attr]
    for gradient, exact in zip(got, wanted, strict=True):
        assert (gradient - exact).norm() <= 0.002 * exact.norm()


def test_a_frozen_head_gets_no_gradient_and_passes_the_same_one_on() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(9, 5, requires_grad=True), torch.randn(11, 5), torch.arange(9)
    losses.linear_cross_entropy(hidden, weight, targets).backward()
    (expected,) = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), hidden)
    torch.testing.assert_close(hidden.grad, expected)
    assert weight.grad is None


def test_loss_is_stable_where_exponentials_overflow() -> None:
    hidden, weight = torch.tensor([[1000.0], [-1000.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    loss = losses.linear_cross_entropy(hidden, weight, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(1000.0)  # 0 for the first row, 2000 for the second


def test_loss_of_nothing_is_nan_as_in_torch() -> None:
    assert losses.linear_cross_entropy(torch.ones(2, 3), torch.ones(4, 3), torch.full((2,), -100)).isnan()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_bf16_autocast_is_near_fp32(arch: str) -> None:
    torch.manual_seed(0)
    model, ids, targets = GPT(shape(arch)), tokens(), tokens(seed=3)
    exact = model.loss(ids, targets)
    exact.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(ids, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=2e-3)
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        assert (p.grad - grads[name]).norm() <= 0.03 * grads[name].norm() + 1e-6, name


def test_training_learns_a_pattern_by_heart() -> None:
    torch.manual_seed(0)
    model, ids = GPT(shape()), tokens(2, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_loss_equals_eager() -> None:
    model, ids, targets = GPT(shape()), tokens(), tokens(seed=3)
    loss = torch.compile(model.loss)(ids, targets)
    loss.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.loss(ids, targets).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, atol=1e-5, rtol=1e-3)

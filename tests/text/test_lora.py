"""Adapters: the layers they go to, what they compute, and that peft computes the same from their files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genkit.errors import InputError, UsageError
from genkit.text.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, merge
from genkit.text.config import ARCHITECTURES, GPTConfig
from genkit.text.models.gpt import GPT
from genkit.text.models.layout import to_hf_state
from genkit.text.models.lora import LoRALinear, LowRank, adapter_of, add_lora, merged, to_peft
from genkit.text.models.store import load_model

RANK, ALPHA = 3, 7.0
# what peft and transformers warn of among themselves
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def base(arch: str, tie: bool = True, **changes: Any) -> GPT:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "arch": arch, "vocab_size": 61, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16, "head_dim": 8,
        "n_kv_head": 2 if arch == "gpt2" else 1, "n_inner": 24, "tie_embeddings": tie, "bos_id": 0, "eos_id": 0,
    }  # fmt: skip
    model = GPT(GPTConfig(**shape | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.2, 0.3)
    return model


def adapted(model: GPT, targets: tuple[str, ...] = ("all-linear",), *, trained: bool = True, **how: Any) -> GPT:
    """The same model, with adapters that matter if they are `trained`."""
    generator = torch.Generator().manual_seed(1)
    add_lora(model, **{"rank": RANK, "alpha": ALPHA, "targets": targets, "dropout": 0.0, "generator": generator} | how)
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0.0, 0.2, generator=generator)
    return model


def write_base(model: GPT, folder: Path) -> Path:
    folder.mkdir()
    save_file(to_hf_state(model), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_hf()))
    return folder


def write_adapter(model: GPT, folder: Path, targets: list[str], **changes: Any) -> Path:
    folder.mkdir()
    layers, tensors = to_peft(model)
    config = adapter_config(
        base="nowhere", revision=None, rank=RANK, alpha=ALPHA, dropout=0.0, targets=targets,
        conv1d=model.config.arch == "gpt2",
    )  # fmt: skip
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config | changes))
    assert layers
    return folder


def ids() -> Tensor:
    return torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(3))


LEAVES = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
}


# --- what they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_new_adapters_change_nothing_and_train_alone(arch: str) -> None:
    model = base(arch)
    before = model(ids())
    adapted(model, trained=False)
    assert torch.equal(model(ids()), before)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"A", "B"}
    bound = 1 / math.sqrt(model.config.n_embd)
    a = model.blocks[0].attn.q.lora.A
    assert a.abs().max() <= bound  # drawn like the weight of a linear layer
    assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.3)


@torch.no_grad()
def test_an_adapter_adds_its_scaled_product() -> None:
    a = nn.Parameter(torch.randn(2, 5))
    lora = LowRank(a, 4, scale=0.5, dropout=0.0)
    lora.B.normal_()
    x = torch.randn(3, 5)
    torch.testing.assert_close(lora(x), 0.5 * x @ a.T @ lora.B.T)
    torch.testing.assert_close(lora.delta(), 0.5 * lora.B @ a)


def test_dropout_acts_on_what_goes_into_the_adapter_alone() -> None:
    model = adapted(base("llama"), dropout=0.5).train()
    layer = model.blocks[0].attn.q
    x = torch.ones(1, 16)
    torch.manual_seed(0)
    one, two = layer(x), layer(x)
    assert not torch.equal(one, two)
    layer.eval()
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight + layer.lora.delta()))


def test_gpt2_shares_a_between_what_it_stores_as_one_matrix() -> None:
    attention = adapted(base("gpt2")).blocks[0].attn
    assert attention.q.lora.A is attention.k.lora.A is attention.v.lora.A
    assert attention.q.lora.A is not attention.o.lora.A
    attention = adapted(base("llama")).blocks[0].attn
    assert attention.q.lora.A is not attention.k.lora.A


@pytest.mark.parametrize(
    ("arch", "targets", "layers"),
    [
        ("llama", ("q_proj", "v_proj"), {"attn.q", "attn.v"}),
        ("gpt2", ("c_attn",), {"attn.q", "attn.k", "attn.v"}),
        ("gpt2", ("c_proj",), {"attn.o", "mlp.down"}),  # two layers have that name, as for peft
        ("gpt2", ("mlp.c_proj",), {"mlp.down"}),
    ],
)
def test_targets_are_called_as_in_transformers(arch: str, targets: tuple[str, ...], layers: set[str]) -> None:
    model = adapted(base(arch), targets)
    found = {n.split(".", 2)[2] for n, m in model.named_modules() if isinstance(m, LoRALinear)}
    assert found == layers


def test_a_target_that_no_layer_has_is_named() -> None:
    with pytest.raises(UsageError, match=r"--lora-target c_attn: no such layer in llama \(choose from down_proj, "):
        adapted(base("llama"), ("q_proj", "c_attn"))
    with pytest.raises(UsageError, match="--lora-target lm_head: no such layer"):
        adapted(base("llama", tie=False), ("lm_head",))


@pytest.mark.parametrize(("arch", "tie"), [(a, t) for a in ARCHITECTURES for t in (True, False)])
@torch.no_grad()
def test_merged_computes_the_same_and_shares_what_has_no_adapter(arch: str, tie: bool) -> None:
    model = adapted(base(arch, tie))
    whole = merged(model)
    assert whole.embed.weight is model.embed.weight
    assert not any(isinstance(m, LoRALinear) for m in whole.modules())
    torch.testing.assert_close(whole(ids()), model(ids()), atol=1e-5, rtol=0)
    assert not torch.allclose(whole(ids()), base(arch, tie)(ids()), atol=1e-2)


def test_a_model_without_adapters_is_merged_already() -> None:
    model = base("qwen3")
    assert merged(model) is model
    assert adapter_of(model) is None


def test_the_module_for_checkpoints_holds_the_adapters_themselves() -> None:
    model = adapted(base("llama"), ("q_proj",))
    held = adapter_of(model)
    assert held is not None
    assert set(held.state_dict()) == {f"blocks-{i}-attn-q.{x}" for i in (0, 1) for x in "AB"}
    assert {id(p) for p in held.parameters()} == {id(p) for p in model.parameters() if p.requires_grad}


# --- peft --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_peft_reads_what_we_write(arch: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder = write_base(base(arch), tmp_path / "base")
    model = adapted(base(arch))
    adapter = write_adapter(model, tmp_path / "adapter", LEAVES["gpt2" if arch == "gpt2" else "llama"])
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs = peft.PeftModel.from_pretrained(theirs, adapter).eval()
    torch.testing.assert_close(theirs(ids()).logits, model(ids()), atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs(ids()).logits, merged(model)(ids()), atol=1e-5, rtol=0)
    # nothing is missing and nothing is left over
    wanted = peft.get_peft_model_state_dict(theirs)
    written = load_file(adapter / ADAPTER_WEIGHTS)
    assert {k: v.shape for k, v in wanted.items()} == {k: v.shape for k, v in written.items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"{0}": 5}, "alpha_pattern": {".*\\.1\\..*{1}": 32}},
    "bias": {"bias": "all"},
    "lora_only": {"bias": "lora_only"},
    "head": {"modules_to_save": ["lm_head"]},
    "norms": {"modules_to_save": ["{norm}"]},
    "one layer": {"layers_to_transform": [1]},
    "gaussian": {"init_lora_weights": "gaussian"},
}


def filled(value: Any, arch: str) -> Any:
    """The layers' names in this architecture."""
    if isinstance(value, dict):
        return {filled(k, arch): filled(v, arch) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, arch) for v in value]
    names = ("c_attn", "c_fc", "ln_1") if arch == "gpt2" else ("q_proj", "up_proj", "input_layernorm")
    return value.format(*names, norm=names[2]) if isinstance(value, str) else value


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arch", ["gpt2", "llama"])
@torch.no_grad()
def test_we_merge_what_peft_writes(arch: str, variant: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder = write_base(base(arch, tie=False), tmp_path / "base")
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=LEAVES[arch], task_type="CAUSAL_LM", fan_in_fan_out=arch == "gpt2",
        **filled(VARIANTS[variant], arch),
    )  # fmt: skip
    theirs = peft.get_peft_model(theirs, config).eval()
    torch.manual_seed(5)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    whole = tmp_path / "whole"
    whole.mkdir()
    merge(tmp_path / "adapter", folder, whole / "model.safetensors")
    (whole / "config.json").write_text((folder / "config.json").read_text())
    torch.testing.assert_close(load_model(whole)(ids()), theirs(ids()).logits, atol=1e-5, rtol=0)


def test_what_is_merged_on_the_disk_is_what_is_merged_here(tmp_path: Path) -> None:
    for arch in ARCHITECTURES:
        folder = write_base(base(arch), tmp_path / arch)
        model = adapted(base(arch))
        merge(write_adapter(model, tmp_path / f"{arch}-lora", []), folder, tmp_path / "whole.safetensors")
        found = load_file(tmp_path / "whole.safetensors")
        expected = to_hf_state(merged(model))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "is an adapter of the kind IA3"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is a variant of LoRA that genkit does not merge"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is a variant"),
        ({"lora_bias": True}, "lora_bias is a variant"),
        ({"init_lora_weights": "pissa_niter_4"}, "began with pissa_niter_4, which changes the base"),
        ({"lora_alpha": "eight"}, "lora_alpha is 'eight', not a number"),
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha is None, not a number"),
        ({"alpha_pattern": [1]}, r"alpha_pattern is \[1\], not an object"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern is no regular expression"),
    ],
)
def test_variants_that_are_not_merged_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = write_base(base("llama"), tmp_path / "base")
    adapter = write_adapter(adapted(base("llama")), tmp_path / "adapter", [], **changes)
    with pytest.raises(InputError, match=said):
        merge(adapter, folder, tmp_path / "whole.safetensors")
    assert not (tmp_path / "whole.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"), "has only base_model"),
        (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.ones(3, 16)}), "no lm_head.weight"),
        (lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3, 61)}), "has no"),
        (lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.ones(61, 16)}), "unties the head"),
        (
            lambda t: t.update({"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(3, 17)}),
            r"does not fit the base: model.layers.0.mlp.up_proj.weight is \[24, 16\]",
        ),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Any, said: str) -> None:
    folder = write_base(base("llama"), tmp_path / "base")
    adapter = write_adapter(adapted(base("llama")), tmp_path / "adapter", [])
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(InputError, match=said):
        merge(adapter, folder, tmp_path / "whole.safetensors")

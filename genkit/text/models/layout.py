"""Tensor names and layouts of `transformers` for the models of `gpt.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT, count_parameters

# ours -> theirs; a name inside a block follows "blocks.{i}." here and the layer prefix there
_OUTER = {
    "llama": {"embed": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"},
    "gpt2": {
        "embed": "transformer.wte",
        "positions": "transformer.wpe",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
    },
}
_INNER = {
    "llama": {
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.o": "self_attn.o_proj",
        "attn.q_norm": "self_attn.q_norm",
        "attn.k_norm": "self_attn.k_norm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
    "gpt2": {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.q": "attn.c_attn",  # q, k and v share one matrix there
        "attn.k": "attn.c_attn",
        "attn.v": "attn.c_attn",
        "attn.o": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
}
_LAYERS = {"llama": "model.layers.", "gpt2": "transformer.h."}

# buffers that older releases stored beside the weights
_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def to_hf_state(model: GPT) -> dict[str, Tensor]:
    """The tensors that `transformers` stores for the same model.

    fp32 or whatever the model holds; contiguous, detached, without a tied head.
    """
    state: dict[str, Tensor] = {}
    for theirs, ours, transposed in _pairs(model):
        tensor = torch.cat([t.detach() for t in ours]) if len(ours) > 1 else ours[0].detach()
        state[theirs] = (tensor.T if transposed else tensor).contiguous()
    return state


@torch.no_grad()
def load_hf_state(model: GPT, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` of `transformers` into the model, all of them or none.

    Raises:
        InputError: tensors are missing, unexpected, of another shape or not
            floating point; the first few are named. The model is unchanged.
    """
    tensors = _canonical(model.config, tensors)
    pairs = list(_pairs(model))
    expected = {theirs: _shape(ours, transposed) for theirs, ours, transposed in pairs}
    missing = [n for n in expected if n not in tensors]
    unexpected = [n for n in tensors if n not in expected]
    wrong = [
        f"{n} is {t.dtype} {list(t.shape)}, not {list(expected[n])}"
        for n, t in tensors.items()
        if n in expected and (t.shape != expected[n] or not t.is_floating_point())
    ]
    complaints = [
        f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("mismatched", wrong))
        if names
    ]
    if complaints:
        raise InputError(
            f"weights do not fit the {model.config.arch} of config.json: {'; '.join(complaints)}",
            "config.json and model.safetensors must come from the same model",
        )
    for theirs, ours, transposed in pairs:
        tensor = tensors[theirs].T if transposed else tensors[theirs]
        for part, source in zip(ours, torch.split(tensor, [len(t) for t in ours]), strict=True):
            part.copy_(source)


def from_hf_state(config: GPTConfig, tensors: Mapping[str, Tensor], *, dropout: float = 0.0) -> GPT:
    """A GPT on the CPU in fp32 that holds `tensors`; nothing is allocated before they fit the config.

    Raises:
        InputError: as `load_hf_state`, or the config asks for more than the tensors hold.
    """
    held = sum(t.numel() for t in tensors.values())
    if (size := count_parameters(config)) > held:
        raise InputError(
            f"the {config.arch} of config.json has {size:,} parameters, the weights hold {held:,}",
            "config.json and model.safetensors must come from the same model",
        )
    with torch.device("meta"):
        model = GPT(config, dropout)
    for module in model.modules():  # as `to_empty`, which imports torch's compiler
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
    load_hf_state(model, tensors)
    return model


def hub_module(config: GPTConfig, module: str) -> str:
    """What `transformers` calls a module: `transformer.h.0.attn.c_attn` for `blocks.0.attn.q` of gpt2."""
    family = "gpt2" if config.arch == "gpt2" else "llama"
    if not module.startswith("blocks."):
        return _OUTER[family][module]
    _, layer, inner = module.split(".", 2)
    return f"{_LAYERS[family]}{layer}.{_INNER[family][inner]}"


def _pairs(model: GPT) -> Iterator[tuple[str, list[Tensor], bool]]:
    """(their name, our parameters that make it up, whether it is stored transposed)."""
    found: dict[str, list[Tensor]] = {}
    transposed = {}
    for name, parameter in model.named_parameters():
        module, kind = name.rsplit(".", 1)
        theirs = f"{hub_module(model.config, module)}.{kind}"
        if module.startswith("blocks."):
            transposed[theirs] = model.config.arch == "gpt2" and parameter.ndim == 2  # Conv1D keeps (in, out)
        found.setdefault(theirs, []).append(parameter)
    return ((theirs, ours, transposed.get(theirs, False)) for theirs, ours in found.items())


def _shape(ours: list[Tensor], transposed: bool) -> torch.Size:
    shape = (sum(len(t) for t in ours), *ours[0].shape[1:])
    return torch.Size(reversed(shape) if transposed else shape)


def _canonical(config: GPTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo what older releases store differently: no `transformer.` prefix, buffers, a copy of a tied head."""
    names = {n: t for n, t in tensors.items() if not _BUFFERS.search(n)}
    if config.arch == "gpt2":
        names = {n if n.startswith(("transformer.", "lm_head.")) else f"transformer.{n}": t for n, t in names.items()}
    embed = names.get("transformer.wte.weight" if config.arch == "gpt2" else "model.embed_tokens.weight")
    head = names.get("lm_head.weight")
    if config.tie_embeddings and embed is not None and head is not None and torch.equal(head, embed):
        del names["lm_head.weight"]
    return names

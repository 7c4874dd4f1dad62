"""Low-rank adapters: LoRA (Hu et al. 2021), W + alpha / r * B A with W frozen."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.text.models.gpt import GPT
from genkit.text.models.layout import hub_module

ALL_LINEAR = "all-linear"  # peft's name for every linear layer but the head


class LowRank(nn.Module):
    """scale * B A dropout(x), which begins at zero: A is drawn as a linear layer's weight is, B is 0.

    Attributes:
        A: (rank, inputs).
        B: (outputs, rank).
    """

    def __init__(self, a: nn.Parameter, outputs: int, *, scale: float, dropout: float) -> None:
        super().__init__()
        self.A = a
        self.B = nn.Parameter(torch.zeros(outputs, len(a)))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.A), self.B) * self.scale

    @torch.no_grad()
    def delta(self) -> Tensor:
        """What it adds to the weight: (outputs, inputs)."""
        return (self.B @ self.A) * self.scale


class LoRALinear(nn.Linear):
    """A frozen linear layer and an adapter beside it; the layer's parameters keep their names."""

    def __init__(self, layer: nn.Linear, lora: LowRank) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora = lora

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) + self.lora(x)
        return out


def add_lora(
    model: GPT, *, rank: int, alpha: float, targets: Collection[str], dropout: float, generator: torch.Generator
) -> None:
    """Freeze the model and put adapters beside its linear layers.

    gpt2 stores q, k and v as one matrix, so theirs share A, as in an adapter of that matrix.

    Args:
        alpha: the adapter is scaled by alpha / rank.
        targets: names that `transformers` gives to the layers, or the ends of such names
            after a dot; or `ALL_LINEAR`.
        generator: draws A, on the CPU.

    Raises:
        UsageError: a target that no layer of the model has.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("blocks.")
    }
    theirs = {name: hub_module(model.config, name) for name in layers}
    leaves = sorted({name.rpartition(".")[2] for name in theirs.values()})
    wanted = leaves if ALL_LINEAR in targets else targets
    for target in wanted:
        if not any(_is_target(name, (target,)) for name in theirs.values()):
            raise UsageError(
                f"--lora-target {target}: no such layer in {model.config.arch}", f"choose from {', '.join(leaves)}"
            )
    model.requires_grad_(False)
    drawn: dict[str, nn.Parameter] = {}
    for name, layer in layers.items():
        if not _is_target(theirs[name], wanted):
            continue
        if theirs[name] not in drawn:
            a = torch.empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            drawn[theirs[name]] = nn.Parameter(a.to(layer.weight.device))
        lora = LowRank(drawn[theirs[name]], layer.out_features, scale=alpha / rank, dropout=dropout)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, LoRALinear(layer, lora.to(layer.weight.device)))


def _is_target(module: str, targets: Collection[str]) -> bool:
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _adapted(model: GPT) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoRALinear))


def adapter_of(model: GPT) -> nn.Module | None:
    """A module of the adapters' parameters alone, which it shares; None for a model without."""
    found = {name.replace(".", "-"): layer.lora for name, layer in _adapted(model)}
    return nn.ModuleDict(found) if found else None


@torch.no_grad()
def merged(model: GPT) -> GPT:
    """A model without adapters that computes the same; all weights that have none are shared."""
    adapted = dict(_adapted(model))
    if not adapted:
        return model
    with torch.device("meta"):
        plain = GPT(model.config)
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        if module.endswith(".lora"):
            continue
        if kind == "weight" and module in adapted:
            parameter = nn.Parameter(parameter + adapted[module].lora.delta())
        setattr(plain.get_submodule(module), kind, parameter)
    return plain.train(model.training)


def to_peft(model: GPT) -> tuple[list[str], dict[str, Tensor]]:
    """The adapters as peft stores them: the names of their layers, and A (r, in) and B (out, r) of each."""
    a: dict[str, Tensor] = {}
    b: dict[str, list[Tensor]] = {}
    for name, layer in _adapted(model):
        module = hub_module(model.config, name)
        a[module] = layer.lora.A.detach()
        b.setdefault(module, []).append(layer.lora.B.detach())
    tensors = {}
    for module in a:
        tensors[f"base_model.model.{module}.lora_A.weight"] = a[module]
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.cat(b[module])
    return sorted(a), tensors

"""TrainState: everything a run must remember to go on as if it had never stopped.

A state becomes tensors, grouped into files, and plain JSON beside them; nothing
is pickled. Equal states give equal bytes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genkit.errors import InputError
from genkit.runtime.parallel import split_like
from genkit.training.checkpoint import Checkpoint
from genkit.training.weights import copy_weights, named_tensors

OPTIMIZER, RANDOM = "optimizer", "random"
_IMPLEMENTATION = ("foreach", "fused", "capturable")  # how a step is computed here, not what it computes


@dataclass
class TrainState:
    """The parts of a run, by reference, and its counters.

    Attributes:
        modules: networks by name, the averaged ones too; each is a file.
        optimizers: any torch optimizers by name.
        generators: random streams by name, besides the global ones of Python,
            NumPy and torch, which are always kept.
        scaler: gradient scaler of fp16.
        step: optimiser steps done.
        seen: tokens or images trained on.
        elapsed: seconds spent, over all starts.
        extra: JSON values that the loop wants back: data position, best metric, fingerprints.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    generators: dict[str, torch.Generator] = field(default_factory=dict)
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    seen: int = 0
    elapsed: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """File stem -> name -> tensor, not copied: one file a module, "optimizer" and "random".

        A tensor that is split over ranks comes as this rank's part; `parallel.gathered` makes it whole.
        """
        if clash := {OPTIMIZER, RANDOM} & set(self.modules):
            raise ValueError(f"a module may not be called {clash.pop()!r}")
        files = {name: named_tensors(module) for name, module in self.modules.items()}
        return files | {OPTIMIZER: self._flat_optimizers()[0], RANDOM: self._flat_random()[0]}

    def meta(self) -> dict[str, Any]:
        """The JSON side of the state."""
        return {
            "step": self.step,
            "seen": self.seen,
            "elapsed": self.elapsed,
            "extra": flatten(self.extra, "extra"),
            "scaler": None if self.scaler is None else flatten(self.scaler.state_dict(), "scaler"),
            OPTIMIZER: self._flat_optimizers()[1],
            RANDOM: self._flat_random()[1],
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint into the modules, optimizers and generators, bit for bit.

        Raises:
            InputError: the checkpoint is of a run with other parts or shapes.
        """
        tensors, meta = checkpoint.tensors, checkpoint.meta
        try:
            optimizers = unflatten(meta[OPTIMIZER], tensors[OPTIMIZER])
            randoms = unflatten(meta[RANDOM], tensors[RANDOM])
            scaler = unflatten(meta["scaler"], {})
            counters = meta["step"], meta["seen"], meta["elapsed"], unflatten(meta["extra"], {})
        except KeyError as error:
            raise InputError(f"{checkpoint.path} lacks {error}", "was it written by another genkit?") from error
        _same_names(checkpoint.path, "modules", set(tensors) - {OPTIMIZER, RANDOM}, self.modules)
        _same_names(checkpoint.path, "optimizers", optimizers, self.optimizers)
        _same_names(checkpoint.path, "random streams", randoms["named"], self.generators)
        for name, module in self.modules.items():
            copy_weights(module, tensors[name], f"{checkpoint.path.name}/{name}.safetensors")
        for name, optimizer in self.optimizers.items():
            _restore_optimizer(optimizer, optimizers[name], f"{checkpoint.path.name}: optimizer {name}")
        if self.scaler is not None and scaler:
            self.scaler.load_state_dict(scaler)
        self._restore_random(randoms)
        self.step, self.seen, self.elapsed, self.extra = counters

    def _flat_optimizers(self) -> tuple[dict[str, Tensor], Any]:
        tensors: dict[str, Tensor] = {}
        trees = {}
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
            sizes = [len(group["params"]) for group in state["param_groups"]]
            per_parameter = {str(index): values for index, values in state["state"].items()}
            trees[name] = {"groups": groups, "sizes": sizes, "state": per_parameter, "on_cpu": _kept_on_cpu(optimizer)}
        return tensors, flatten(trees, "", tensors)

    def _flat_random(self) -> tuple[dict[str, Tensor], Any]:
        version, words, gauss = random.getstate()
        kind, key, *rest = cast(tuple[Any, ...], np.random.get_state())
        tree = {
            "python": (version, torch.tensor(words), gauss),
            "numpy": (kind, torch.from_numpy(key.astype(np.int64)), *rest),
            "torch": {"cpu": torch.get_rng_state()}
            | {kind: torch.get_device_module(kind).get_rng_state() for kind in self._accelerators()},
            "named": {name: generator.get_state() for name, generator in self.generators.items()},
        }
        tensors: dict[str, Tensor] = {}
        return tensors, flatten(tree, "", tensors)

    def _restore_random(self, tree: dict[str, Any]) -> None:
        version, words, gauss = tree["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        kind, key, *rest = tree["numpy"]
        np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(tree["torch"]["cpu"])
        for kind in self._accelerators():
            if kind in tree["torch"]:  # a run may move to another kind of device, with other random numbers there
                torch.get_device_module(kind).set_rng_state(tree["torch"][kind])
        for name, generator in self.generators.items():
            if generator.get_state().shape != tree["named"][name].shape:
                raise InputError(f"the random stream {name!r} of this checkpoint lived on another kind of device")
            generator.set_state(tree["named"][name])

    def _accelerators(self) -> list[str]:
        kinds = {p.device.type for module in self.modules.values() for p in module.parameters()}
        return sorted(kinds - {"cpu"})


def flatten(value: Any, path: str, tensors: dict[str, Tensor] | None = None) -> Any:
    """Turn a tree of containers, numbers and tensors into strict JSON.

    Tensors go into `tensors` under their dotted path and leave a reference; tuples
    and non-finite floats, which JSON does not know, are marked.

    Raises:
        TypeError: a value that is none of these, or a tensor where `tensors` is None.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Tensor) and tensors is not None and path not in tensors:
        tensors[path] = value
        return {"$tensor": path}
    if isinstance(value, tuple):
        return {"$tuple": flatten(list(value), path, tensors)}
    if isinstance(value, list):
        return [flatten(item, _join(path, i), tensors) for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(k, str) and not k.startswith("$") for k in value):
        return {k: flatten(item, _join(path, k), tensors) for k, item in value.items()}
    raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold")


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`.

    Raises:
        KeyError: a tensor that is referred to is not there.
    """
    if isinstance(value, list):
        return [unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    marks: dict[str, Callable[[Any], Any]] = {
        "$float": float,
        "$tensor": lambda name: tensors[name],
        "$tuple": lambda items: tuple(unflatten(items, tensors)),
    }
    for mark, decode in marks.items():
        if mark in value:
            return decode(value[mark])
    return {k: unflatten(item, tensors) for k, item in value.items()}


def _join(path: str, part: str | int) -> str:
    return f"{path}.{part}" if path else str(part)


def _same_names(path: Path, what: str, there: Any, here: Any) -> None:
    if set(there) != set(here):
        raise InputError(
            f"{path} has the {what} {', '.join(sorted(there)) or '-'}; this run has {', '.join(sorted(here)) or '-'}",
            "resume with the settings the run was started with",
        )


def _kept_on_cpu(optimizer: Optimizer) -> list[str]:
    """State that torch keeps on the CPU although the parameter lives elsewhere, such as step counts."""
    return sorted(
        {
            key
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor) and value.device.type == "cpu" != parameter.device.type
        }
    )


def _restore_optimizer(optimizer: Optimizer, tree: dict[str, Any], source: str) -> None:
    # Optimizer.load_state_dict casts state to the parameter's dtype, so a restored
    # integer or a bfloat16 momentum would no longer be the saved one.
    groups = optimizer.param_groups
    if (sizes := [len(group["params"]) for group in groups]) != tree["sizes"]:
        raise InputError(
            f"{source} has groups of {tree['sizes']} parameters; this run has {sizes}",
            "resume with the settings the run was started with",
        )
    for group, saved in zip(groups, tree["groups"], strict=True):
        for key, value in saved.items():
            if isinstance(value, Tensor):
                present = group.get(key)
                value = value.to(present.device if isinstance(present, Tensor) else "cpu", copy=True)
            if key not in _IMPLEMENTATION:
                group[key] = value
    parameters = [p for group in groups for p in group["params"]]
    optimizer.state.clear()
    for index, values in tree["state"].items():
        parameter = parameters[int(index)]
        optimizer.state[parameter] = {
            key: value.clone() if key in tree["on_cpu"] else _beside(parameter, value) for key, value in values.items()
        }


def _beside(parameter: Tensor, value: Any) -> Any:
    """Move optimizer state to its parameter's device and, where it has its shape, memory layout."""
    if isinstance(value, list | tuple):
        return type(value)(_beside(parameter, item) for item in value)
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        like = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
        return like.copy_(split_like(value, like))
    return value.to(parameter.device, copy=True)

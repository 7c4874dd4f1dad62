"""A state restored is the state saved, bit for bit, for any optimizer."""

from __future__ import annotations

import copy
import json
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genkit.errors import InputError
from genkit.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from genkit.training.muon import Muon
from genkit.training.state import TrainState, flatten, unflatten
from genkit.training.weights import _bytes

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "adagrad": lambda p: torch.optim.Adagrad(p),
    "adam": lambda p: torch.optim.Adam(p, betas=(0.5, 0.999), amsgrad=True),
    "adam fused": lambda p: torch.optim.Adam(p, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1 + 0.2),
    "adamw foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "adamw tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
    "adamax": lambda p: torch.optim.Adamax(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=2, history_size=3),
    "muon": lambda p: Muon([q for q in p if q.ndim == 2], lr=0.02, weight_decay=0.01),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "odd": lambda p: Odd(p),
}


class Odd(Optimizer):
    """State of every kind that `Optimizer.load_state_dict` would cast or lose."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.01, "pair": (1, 2.5), "limit": math.inf, "peak": np.float64(0.1)})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("count", 0)
                state.setdefault("steps", torch.zeros((), dtype=torch.int64))
                state.setdefault("half", torch.zeros_like(p, dtype=torch.bfloat16))
                state["count"] += 1
                state["steps"] += 1
                state["half"].add_(p.grad.bfloat16())
                state["history"] = [float(p.grad.sum()), None, (True, -0.0)]
                p.data.sub_(state["half"].float() + torch.rand(()) * state["count"], alpha=group["lr"])


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 4)).to(
        memory_format=torch.channels_last
    )


def start(build: Callable[[list[nn.Parameter]], Optimizer] = OPTIMIZERS["adamw"]) -> TrainState:
    torch.manual_seed(0)
    model = network()
    if build is OPTIMIZERS["lbfgs"]:  # it cannot take channels_last
        model.to(memory_format=torch.contiguous_format)
    return TrainState(
        modules={"model": model, "ema": copy.deepcopy(model)},
        optimizers={"main": build(list(model.parameters()))},
        generators={"noise": torch.Generator().manual_seed(1)},
    )


def train(state: TrainState, steps: int) -> None:
    """Steps that draw from every stream of random numbers."""
    model, ema = state.modules["model"], state.modules["ema"]
    (optimizer,) = state.optimizers.values()
    for _ in range(steps):
        x = torch.randn(4, 2, 4, 4, generator=state.generators["noise"]) + random.gauss(0, 0.1) + np.random.randn()

        def closure(x: Tensor = x) -> Tensor:
            model.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        for group in optimizer.param_groups:
            if isinstance(group["lr"], float):
                group["lr"] *= 0.9
        with torch.no_grad():
            for kept, p in zip(ema.parameters(), model.parameters(), strict=True):
                kept.lerp_(p, 0.1)
        state.step += 1
        state.seen += 4


def stored(state: TrainState, folder: Path) -> Checkpoint:
    folder.mkdir()
    write_checkpoint(folder, state.tensors(), state.meta())
    tensors, meta = read_checkpoint(folder)
    return Checkpoint(folder, tensors, meta)


def disturb() -> None:
    random.seed(99), np.random.seed(99), torch.manual_seed(99), random.gauss(0, 1)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_from_a_checkpoint_is_going_on(tmp_path: Path, name: str) -> None:
    warnings.simplefilter("ignore", UserWarning)  # some optimizers warn about their own future
    straight = start(OPTIMIZERS[name])
    train(straight, 5)
    stored(straight, tmp_path / "middle")
    train(straight, 4)
    stored(straight, tmp_path / "straight")

    disturb()
    tensors, meta = read_checkpoint(tmp_path / "middle")
    resumed = start(OPTIMIZERS[name])
    disturb()
    resumed.restore(Checkpoint(tmp_path / "middle", tensors, meta))
    stored(resumed, tmp_path / "again")
    assert all_bytes(tmp_path / "again") == all_bytes(tmp_path / "middle")
    train(resumed, 4)
    stored(resumed, tmp_path / "resumed")
    assert all_bytes(tmp_path / "resumed") == all_bytes(tmp_path / "straight")


def test_restored_optimizer_state_has_the_saved_types_and_layout(tmp_path: Path) -> None:
    state = start(OPTIMIZERS["odd"])
    train(state, 3)
    other = start(OPTIMIZERS["odd"])
    other.restore(stored(state, tmp_path / "a"))
    group = other.optimizers["main"].param_groups[0]
    assert group["pair"] == (1, 2.5)
    assert type(group["pair"]) is tuple
    assert group["limit"] == math.inf
    first = other.modules["model"][0].weight
    assert group["params"][0] is first
    values = other.optimizers["main"].state[first]
    assert type(values["count"]) is int
    assert values["count"] == 3
    assert values["steps"].dtype == torch.int64
    assert values["half"].dtype == torch.bfloat16
    assert values["half"].is_contiguous(memory_format=torch.channels_last)
    assert values["history"][1:] == [None, (True, -0.0)]
    assert math.copysign(1, values["history"][2][1]) == -1


def test_adam_keeps_its_step_a_float_tensor(tmp_path: Path) -> None:
    state = start(OPTIMIZERS["adam"])
    train(state, 2)
    other = start(OPTIMIZERS["adam"])
    other.restore(stored(state, tmp_path / "a"))
    for values in other.optimizers["main"].state.values():
        assert values["step"].dtype == torch.float32
        assert values["step"].shape == ()
        assert values["step"] == 2


def test_a_restored_state_shares_no_memory_with_the_checkpoint(tmp_path: Path) -> None:
    state = start()
    train(state, 2)
    checkpoint = stored(state, tmp_path / "a")
    checkpoint.tensors["optimizer"]["main.groups.0.peak"] = torch.ones(1)
    checkpoint.meta["optimizer"]["main"]["groups"][0]["peak"] = {"$tensor": "main.groups.0.peak"}
    before = {k: _bytes(t).tobytes() for group in checkpoint.tensors.values() for k, t in group.items()}
    state.restore(checkpoint)
    train(state, 2)
    state.optimizers["main"].param_groups[0]["peak"].add_(1)
    assert before == {k: _bytes(t).tobytes() for group in checkpoint.tensors.values() for k, t in group.items()}


def test_how_a_step_is_computed_belongs_to_this_machine_and_not_to_the_checkpoint(tmp_path: Path) -> None:
    state = start(OPTIMIZERS["adam fused"])
    train(state, 2)
    other = start(lambda p: torch.optim.Adam(p, foreach=True))
    other.restore(stored(state, tmp_path / "a"))
    group = other.optimizers["main"].param_groups[0]
    assert (group["foreach"], group["fused"]) == (True, None)
    train(other, 1)


def test_counters_extra_and_scaler_come_back(tmp_path: Path) -> None:
    state = start()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    state.step, state.seen, state.elapsed = 12, 1 << 40, 0.1 + 0.2
    state.extra = {
        "best": math.inf,
        "position": [3, 4],
        "pair": (1, 2),
        "none": None,
        "np": np.float32(0.5),
        "text": "ä",
    }
    checkpoint = stored(state, tmp_path / "a")
    other = start()
    other.scaler = torch.amp.GradScaler("cpu")
    other.restore(checkpoint)
    assert (other.step, other.seen, other.elapsed) == (12, 1 << 40, 0.1 + 0.2)
    assert other.extra == {"best": math.inf, "position": [3, 4], "pair": (1, 2), "none": None, "np": 0.5, "text": "ä"}
    assert other.scaler.state_dict() == state.scaler.state_dict()
    assert checkpoint.step == 12


def test_the_files_of_a_state() -> None:
    state = start()
    assert sorted(state.tensors()) == ["ema", "model", "optimizer", "random"]
    assert sorted(state.tensors()["random"]) == ["named.noise", "numpy.1", "python.1", "torch.cpu"]
    assert list(state.tensors()["model"]) == list(state.modules["model"].state_dict())
    json.dumps(state.meta(), allow_nan=False)


def test_tensors_are_not_copied() -> None:
    state = start()
    assert state.tensors()["model"]["0.weight"].data_ptr() == state.modules["model"][0].weight.data_ptr()


def test_a_module_may_not_take_a_file_of_the_state() -> None:
    state = start()
    state.modules["optimizer"] = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="may not be called 'optimizer'"):
        state.tensors()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.modules.pop("ema"), "has the modules ema, model; this run has model"),
        (lambda s: s.optimizers.update(other=torch.optim.SGD(s.modules["model"].parameters())),
         "has the optimizers main; this run has main, other"),
        (lambda s: s.generators.clear(), "has the random streams noise; this run has -"),
        (lambda s: s.modules.update(model=nn.Linear(1, 1)), "model.safetensors does not fit this model: missing: bias"),
        (lambda s: s.optimizers.update(main=torch.optim.AdamW([s.modules["model"][0].weight])),
         r"optimizer main has groups of \[6\] parameters; this run has \[1\]"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    checkpoint = stored(start(), tmp_path / "a")
    other = start()
    change(other)
    with pytest.raises(InputError, match=message):
        other.restore(checkpoint)


def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    checkpoint = stored(start(), tmp_path / "a")
    for key in ("step", "optimizer", "random", "scaler", "extra"):
        meta = {k: v for k, v in checkpoint.meta.items() if k != key}
        with pytest.raises(InputError, match=f"lacks '{key}'"):
            start().restore(Checkpoint(checkpoint.path, checkpoint.tensors, meta))


# --- flatten ---------------------------------------------------------------------------


def test_flatten_is_undone_through_json() -> None:
    tree = {
        "numbers": [1, 2**70, -0.0, 1e-320, 0.1, math.inf, -math.inf, True, None],
        "nested": {"tuple": ((), (1, (2.0,))), "list": [[]], "dict": {}},
        "tensors": [torch.ones(2), {"deep": (torch.zeros(()),)}],
    }
    tensors: dict[str, Tensor] = {}
    back = unflatten(json.loads(json.dumps(flatten(tree, "", tensors), allow_nan=False)), tensors)
    assert sorted(tensors) == ["tensors.0", "tensors.1.deep.0"]
    assert back["tensors"][0] is tree["tensors"][0]
    assert back["tensors"][1]["deep"][0] is tree["tensors"][1]["deep"][0]
    assert repr(back["numbers"]) == repr(tree["numbers"])
    assert back["nested"] == tree["nested"]
    assert repr(unflatten(flatten(math.nan, "x"), {})) == "nan"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {1: 2}}, "extra.a is a dict"),
        ({"a": {"$float": 1}}, "extra.a is a dict"),
        ({"a": [object()]}, "extra.a.0 is a object"),
        ({"a": {1, 2}}, "extra.a is a set"),
        ({"a": torch.ones(1)}, "extra.a is a Tensor"),
        ({"a": Path("x")}, "extra.a is a PosixPath"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        flatten(value, "extra")


def test_two_tensors_under_one_name_are_refused_and_not_mixed_up() -> None:
    with pytest.raises(TypeError, match=r"a\.b is a Tensor"):
        flatten({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, "", {})

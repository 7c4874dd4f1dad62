"""Runtime: what a placement means for torch, and that leaving undoes it."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from genkit.errors import ResourceError, UsageError
from genkit.runtime import manager
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime, memory_guard
from genkit.runtime.seeds import derive_seed


def placed(device: str = "cpu", precision: str = "fp32") -> Placement:
    return Placement(device, precision, "torch", "as asked")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_seed_gives_the_same_global_numbers_and_leaving_restores_the_old_stream() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with Runtime(placed(), seed=7):
        first = draws()
    assert draws() == undisturbed
    with Runtime(placed(), seed=7):
        assert draws() == first
    with Runtime(placed(), seed=8):
        assert not set(draws()) & set(first)


def test_leaving_restores_threads_and_matmul_precision_also_after_an_error() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), Runtime(placed(precision="tf32")):  # noqa: PT012
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 is True
        torch.set_num_threads(3)
        raise ZeroDivisionError
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    with Runtime(placed()):
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32 is False


def test_threads_are_no_more_than_the_cores_unless_the_user_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(manager, "cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Runtime(placed()):
        assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with Runtime(placed()):
        assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("precision", "dtype", "scaled"),
    [
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, False),
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, True),
    ],
)
def test_precision_decides_dtype_autocast_and_scaler(precision: str, dtype: torch.dtype, scaled: bool) -> None:
    runtime = Runtime(placed(precision=precision))
    assert runtime.dtype is dtype
    assert (runtime.scaler is not None) is scaled
    with runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_generators_depend_on_seed_and_name_and_on_nothing_else() -> None:
    runtime = Runtime(placed(), seed=3)
    first = torch.rand(4, generator=runtime.generator("noise"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=runtime.generator("noise")))
    assert torch.equal(first, torch.rand(4, generator=Runtime(placed(), seed=3).generator("noise")))
    assert not torch.equal(first, torch.rand(4, generator=runtime.generator("noise2")))
    assert not torch.equal(first, torch.rand(4, generator=Runtime(placed(), seed=4).generator("noise")))


def test_derived_seeds_are_those_of_sha256() -> None:
    digest = hashlib.sha256(b"12/latents").digest()
    assert derive_seed(12, "latents") == int.from_bytes(digest[:8], "little") // 2
    assert all(0 <= derive_seed(seed, "x") < 1 << 63 for seed in (0, 1, (1 << 63) - 1))
    assert len({derive_seed(seed, name) for seed in range(50) for name in "abcd"}) == 200


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
)
def test_memory_guard_names_the_remedy(error: Exception) -> None:
    with pytest.raises(ResourceError) as caught, memory_guard("lower --batch-size"):
        raise error
    assert (caught.value.message, caught.value.hint) == ("out of memory", "lower --batch-size")
    assert caught.value.exit_code == 5


def test_memory_guard_on_a_real_allocation_and_on_other_errors() -> None:
    with pytest.raises(ResourceError), memory_guard("x"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), memory_guard("x"):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_torch_does_not_see_is_a_resource_error() -> None:
    with pytest.raises(ResourceError, match="cannot use cuda:0: it sees 0 such devices"):
        Runtime(placed("cuda:0", "bf16"))


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_a_rank_that_is_no_number_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "one")
    with pytest.raises(UsageError, match=f"{name}='one' is not a number"):
        Runtime(placed())


def test_one_rank_needs_no_process_group() -> None:
    module, tensor = nn.Linear(2, 2), torch.ones(3)
    with Runtime(placed()) as runtime:
        assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
        assert runtime.wrap(module) is module
        assert runtime.mean(tensor) is tensor
        runtime.ranks.barrier()
        runtime.synchronize()
        assert not torch.distributed.is_initialized()


def test_compile_off_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_compiler_problem", lambda device: pytest.fail("asked the compiler"))
    module = nn.Linear(2, 2)
    assert Runtime(placed()).compile(module, False) is module


def test_compile_without_a_compiler_warns_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        def call(*_: Any) -> None:
            raise RuntimeError("no C++ compiler\nlong trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    module = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="going on without it: RuntimeError: no C.. compiler$") as caught:
        assert Runtime(placed()).compile(module, True) is module
    assert len(caught) == 1


@pytest.mark.slow
def test_compiled_modules_keep_their_names_and_their_answers() -> None:
    warnings.simplefilter("default")
    runtime, module = Runtime(placed()), nn.Sequential(nn.Linear(4, 4), nn.GELU())
    x = torch.randn(3, 4)
    eager, names = module(x), list(module.state_dict())
    assert runtime.compile(module, True) is module
    assert list(module.state_dict()) == names
    torch.testing.assert_close(module(x), eager)
    torch.testing.assert_close(runtime.compile(torch.sin, True)(x), torch.sin(x))


RANK = """
import torch
from torch import nn
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
with Runtime(Placement("cpu", "fp32", "torch", ""), seed=5) as runtime:
    rank = runtime.rank
    torch.manual_seed(0)
    model = runtime.wrap(nn.Linear(2, 1, bias=False))
    model(torch.full((1, 2), float(rank + 1))).sum().backward()
    (gradient,) = (p.grad.tolist() for p in model.parameters())
    stream = torch.randint(1 << 30, (1,), generator=runtime.generator("a")).item()
    runtime.ranks.barrier()
    print(runtime.is_main, runtime.mean(torch.tensor([float(rank), 10.0])).tolist(), gradient, stream)
assert not torch.distributed.is_initialized()
"""


@pytest.mark.slow
def test_two_ranks_average_gradients_and_values() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    first, second = (rank.communicate()[0].split(" ", 1) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert (first[0], second[0]) == ("True", "False")
    assert first[1] == second[1]
    assert first[1].startswith("[0.5, 10.0] [[1.5, 1.5]] ")  # means of (0, 1), (10, 10) and gradients (1, 2)

"""Runtime: device, precision, seeds, compilation and ranks for torch code.

The rest of genkit asks this object and never the environment, so a training loop
reads the same on a CPU and on a GPU, alone and under torchrun.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from genkit.errors import ResourceError
from genkit.runtime.device import Placement, cpu_count
from genkit.runtime.parallel import average_gradients, fits, local_gradients, replicate, shard, share_statistics
from genkit.runtime.ranks import Ranks
from genkit.runtime.seeds import derive_seed

_T = TypeVar("_T", bound=Callable[..., Any])
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Runtime:
    """What a `Placement` means for torch; a context manager.

    Entering seeds every global generator, sets threads and TF32, and joins the
    process group where WORLD_SIZE is above 1; leaving restores them.

    Attributes:
        device: where tensors go; of several ranks each has its own GPU.
        dtype: what matrix products compute in; parameters stay float32.
        scaler: gradient scaler of fp16, else None.
        ranks: the other processes of a torchrun job.
        rank, world_size: 0 and 1 in a single process.
        sharded: whether `wrap` split the model over the ranks.

    Raises:
        ResourceError: torch cannot use the device.
    """

    def __init__(self, placement: Placement, seed: int = 0) -> None:
        self.placement = placement
        self.seed = seed
        self.ranks = Ranks.of_environment()
        self.rank, self.world_size = self.ranks.rank, self.ranks.world_size
        self.sharded = False
        self._wrapped: nn.Module | None = None
        self.device = _torch_device(placement, self.ranks)
        self.dtype = _DTYPES[placement.precision]
        fp16 = placement.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type) if fp16 else None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:  # undone at once when a later step fails
            undo.enter_context(self.settings())
            undo.enter_context(_seeded(derive_seed(self.seed, f"rank {self.rank}")))
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            undo.enter_context(self.ranks.joined(self.device))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Threads and TF32 alone, all that sampling needs: no seeds, no process group."""
        with _threads(self.device), _tf32(self.placement.precision == "tf32"):
            yield

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.ranks.is_main

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context for forward passes: mixed precision in bf16 and fp16, else nothing."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def reseed(self, name: str) -> None:
        """Seed torch's generators of the CPU and of the device by the run's seed and `name` alone.

        `torch.manual_seed` also remembers, at every call, a traceback for each kind of
        device that the process has not used yet.
        """
        seed = derive_seed(self.seed, name)
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def compile(self, function: _T, enabled: bool) -> _T:
        """Compile a function, or a module in place; where the machine cannot, warn and leave it."""
        if not enabled:
            return function
        if problem := _compiler_problem(self.device):
            warnings.warn(f"torch.compile does not work here, going on without it: {problem}", stacklevel=2)
            return function
        if isinstance(function, nn.Module):
            function.compile()  # in place: the names of its parameters stay
            return function
        return torch.compile(function)  # type: ignore[return-value]

    def wrap(self, module: nn.Module, parallel: str = "auto") -> nn.Module:
        """Bring a module to the device, and have its backward passes average gradients over ranks.

        Call the result for a loss whose gradient shall be averaged; `module` itself is what
        optimizers and checkpoints take.

        Args:
            parallel: ddp: every rank has a copy. fsdp: the ranks share one, split among
                them. auto: fsdp if a copy and its optimizer do not fit into the device.
        """
        if self.world_size == 1:
            return module.to(self.device)
        self.sharded = parallel == "fsdp" or (parallel == "auto" and not self._fits(module))
        if self.sharded:
            shard(module, self.device)
        self._wrapped = module if self.sharded else replicate(module.to(self.device), self.device)
        return self._wrapped

    def _fits(self, module: nn.Module) -> bool:
        if self.device.type == "cpu":
            return True
        return fits(module, torch.get_device_module(self.device).get_device_properties(self.device).total_memory)

    def local_gradients(self) -> contextlib.AbstractContextManager[None]:
        """Passes whose gradients stay on their rank until the next one outside adds them to its own."""
        return local_gradients(self._wrapped)

    def share_statistics(self, *modules: nn.Module) -> None:
        """Have batch-norm in modules that nobody wraps see the images of all ranks, in place."""
        if self.world_size > 1:
            for module in modules:
                share_statistics(module)

    def average_gradients(self, module: nn.Module) -> None:
        """Make the gradients of a module that nobody wraps their means over ranks, before its optimizer steps."""
        if self.world_size > 1:
            average_gradients(module.parameters())

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over ranks, on every rank."""
        if self.world_size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def generator(self, name: str, *, device: str | torch.device = "cpu") -> torch.Generator:
        """A random stream of its own, set by the run's seed and this name; equal on every rank."""
        return torch.Generator(device).manual_seed(derive_seed(self.seed, name))

    def empty_cache(self) -> None:
        """Give memory that torch holds in reserve back to the device."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()

    def synchronize(self) -> None:
        """Wait for the device to finish, before reading a clock."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()


@contextlib.contextmanager
def memory_guard(remedy: str) -> Iterator[None]:
    """Turn running out of memory into a ResourceError whose hint is `remedy`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError("out of memory", remedy) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, says that memory does not suffice; torch has several ways to say so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("can't allocate memory", "out of memory", "not enough memory"))


def _torch_device(placement: Placement, ranks: Ranks) -> torch.device:
    device = torch.device(placement.device)
    if device.type == "cpu":
        return device
    if ranks.world_size > 1 and device.type != "mps":
        device = torch.device(device.type, ranks.local_rank)
    module = torch.get_device_module(device)
    count = module.device_count() if module.is_available() else 0
    if (device.index or 0) >= count:
        raise ResourceError(
            f"torch {torch.__version__} cannot use {device}: it sees {count} such devices",
            "use --device cpu, or install a torch built for this machine",
        )
    return device


@contextlib.contextmanager
def _threads(device: torch.device) -> Iterator[None]:
    """No more threads than cores this process may use; OMP_NUM_THREADS wins."""
    before = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(before, cpu_count()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    """TF32 in matrix products and convolutions; off by default, although cuDNN's default is on."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch; put the CPU states back at the end."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _compiler_problem(device: torch.device) -> str | None:
    """Compile one addition, because a missing compiler shows only at the first call."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    try:
        torch.compile(torch.add)(torch.ones(2, device=device), 1)
    except Exception as error:  # whatever a compiler tool chain raises
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None

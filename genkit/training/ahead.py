"""Batches that are ready when the device is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]


class Ahead:
    """The batch of each step; on an accelerator the next one is cut out while it computes.

    On a CPU, whose cores compute, batches are cut out when they are asked for. For CUDA
    they lie in pinned memory, from which copies run beside the computation.

    Args:
        fetch: the batch of a step; a pure function, called in a thread of its own.
        device: where the batches will go.
    """

    def __init__(self, fetch: Callable[[int], Batch], device: torch.device) -> None:
        self._fetch, self._pinned = fetch, device.type == "cuda"
        self._thread = ThreadPoolExecutor(max_workers=1) if device.type != "cpu" else None
        self._next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, most quickly if the call before was for the step before."""
        if self._thread is None:
            return self._fetch(step)
        expected, future = self._next or (None, None)
        batch = future.result() if future is not None and expected == step else self._prepare(step)
        self._next = step + 1, self._thread.submit(self._prepare, step + 1)
        return batch

    def _prepare(self, step: int) -> Batch:
        batch = self._fetch(step)
        return tuple(tensor.pin_memory() for tensor in batch) if self._pinned else batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

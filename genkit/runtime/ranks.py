"""The processes of one torchrun job: talking, waiting and failing together.

In a process that trains alone nothing here does anything.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from genkit import errors
from genkit.errors import (
    TELLS,
    TOLD,
    GenkitError,
    Interrupted,
    ResourceError,
    Terminated,
    TerminateSignal,
    UsageError,
)

_FAILED = "genkit/failures"  # key in the store that all ranks share
_COURTESY = 1.0  # seconds

# Numbers of the CPU, which cost no wait for the device, go over gloo.
_BACKENDS = {"cpu": "cpu:gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
# Others wait while rank 0 reads the data. A process that ended is noticed at once,
# by its closed connections or by torchrun, and not by this.
_PATIENCE = datetime.timedelta(days=1)
_VARIABLES = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
# in what torch says when a connection to another process is lost
_LOST = ("closed by peer", "reset by peer", "likely closed", "broken pipe", "remote process", "was aborted")


class Ranks:
    """Which process of the job this one is, and how it talks to the others.

    Args:
        rank, world_size: its number, and how many there are.
        local_rank: its number on this machine.
    """

    def __init__(self, rank: int = 0, local_rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.local_rank, self.world_size = rank, local_rank, world_size
        self._store: Any = None
        self._received: GenkitError | None = None  # an error of rank 0

    @classmethod
    def of_environment(cls) -> Self:
        """As torchrun says.

        Raises:
            UsageError: RANK, LOCAL_RANK or WORLD_SIZE is not a number.
        """
        return cls(*(_from_environment(name, alone) for name, alone in _VARIABLES.items()))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Be part of the job. An error that ends the body is told by the first rank that has one.

        Raises:
            ResourceError: another process ended, and with it the connection.
        """
        if self.world_size == 1:
            yield
            return
        self._store, _, _ = next(rendezvous("env://"))
        dist.init_process_group(
            _BACKENDS.get(device.type, "gloo"),
            store=self._store,
            rank=self.rank,
            world_size=self.world_size,
            timeout=_PATIENCE,
        )
        try:
            yield
        except BaseException as error:
            failure = _understood(error)
            # what came from rank 0 is told there, also if that is gone by now
            first = failure is not self._received and self._is_first_to_fail()
            failure.add_note(TELLS if first else TOLD)
            if first and isinstance(failure, GenkitError) and not self.is_main:
                failure.message = f"rank {self.rank}: {failure.message}"
            if device.type == "cpu":  # NCCL would wait for what the others do not do any more
                dist.destroy_process_group()
            if failure is error:
                raise
            raise failure from error
        dist.destroy_process_group()

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, by rank, on all of them."""
        if self.world_size == 1:
            return [list(values)]
        rows = torch.empty(self.world_size * len(values), dtype=torch.float64)
        dist.all_gather_into_tensor(rows, torch.tensor(values, dtype=torch.float64))
        table: list[list[float]] = rows.view(self.world_size, -1).tolist()
        return table

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather([0.0])

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The body on rank 0 and, when it is done there, on the others.

        It begins when all ranks are here, so that what they read before is no longer
        needed, and may hold nothing that they do together. If it fails on rank 0, every
        rank raises that error.
        """
        if self.world_size == 1:
            yield
            return
        self.barrier()
        if not self.is_main:
            if told := self._broadcast(b""):
                self._received = _decoded(told)
                raise self._received
            yield
            return
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(RuntimeError):  # nobody listens any more
                self._broadcast(_encoded(error))
            raise
        self._broadcast(b"")

    def _broadcast(self, data: bytes) -> bytes:
        """Rank 0's bytes, on all ranks."""
        size = torch.tensor([len(data)])
        dist.broadcast(size, src=0)
        if not size.item():
            return b""
        content = torch.zeros(int(size.item()), dtype=torch.uint8)
        if self.is_main:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        return bytes(content.tolist())

    def _is_first_to_fail(self) -> bool:
        patience = 0.0 if self.is_main else _COURTESY  # most errors are had by all, and then rank 0 tells them
        try:
            until = time.monotonic() + patience
            while time.monotonic() < until and not self._store.check([_FAILED]):
                time.sleep(0.02)
            return bool(self._store.add(_FAILED, 1) == 1)
        except RuntimeError:  # the rank that held the store is gone
            return True


def _understood(error: BaseException) -> BaseException:
    """`error`; a lost connection as what it means."""
    if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _LOST):
        return ResourceError(
            "another process of this run ended", "--resume goes on from the last checkpoint, if there is one"
        )
    return error


def _encoded(error: BaseException) -> bytes:
    if isinstance(error, KeyboardInterrupt):
        error = Terminated("terminated") if isinstance(error, TerminateSignal) else Interrupted("interrupted")
    if not isinstance(error, GenkitError):
        error = GenkitError(f"internal: {type(error).__name__}: {error}")
    return json.dumps([type(error).__name__, error.message, error.hint]).encode()


def _decoded(data: bytes) -> GenkitError:
    name, message, hint = json.loads(data)
    kind: type[GenkitError] = getattr(errors, name, GenkitError)
    return kind(message, hint)


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} is not a number", "unset it")
    return int(text)

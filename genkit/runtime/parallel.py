"""A model on several ranks: copies that average their gradients, or one that is split among them.

ddp   every rank has the whole model (DistributedDataParallel, Li et al. 2020)
fsdp  every rank has its part of each tensor (FSDP2; Zhao et al. 2023, after ZeRO-3,
      Rajbhandari et al. 2020)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:  # a process that trains alone does not pay for them
    from torch.distributed.tensor import DTensor

STATE_BYTES = 16  # of a parameter in training: itself, its gradient and two moments, in fp32
_ROOM = 0.7  # of a device's memory for these; activations need the rest


def fits(module: nn.Module, memory: int) -> bool:
    """Whether a device with `memory` bytes has room to train a whole copy."""
    need = sum(p.numel() * (STATE_BYTES if p.requires_grad else 4) for p in module.parameters())
    return need <= _ROOM * memory


def replicate(module: nn.Module, device: torch.device) -> nn.Module:
    """Average gradients over ranks after each backward pass, but for those inside `local_gradients`."""
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=None if device.type == "cpu" else [device.index],
        gradient_as_bucket_view=True,
    )


def shard(module: nn.Module, device: torch.device) -> None:
    """Split every tensor over the ranks, in place, and gather it when it is needed: a layer at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layers in [m for m in module.modules() if isinstance(m, nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    # the rest too between its passes: what evaluates and saves finds every tensor split
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


@contextlib.contextmanager
def local_gradients(module: Any) -> Iterator[None]:
    """Passes whose gradients stay on their rank until the next one outside adds them to its own."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        with module.no_sync():
            yield
    elif hasattr(module, "set_requires_gradient_sync"):  # FSDPModule, whose import takes its time
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)
    else:
        yield


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a rank holds only its part of it."""
    return hasattr(tensor, "full_tensor")  # to ask for its class would import it


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Sharded tensors as whole ones on the CPU; others as they are.

    Every rank must call it, with the same names in the same order.

    Args:
        keep: whether this rank wants them; the result is empty if not.
    """
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = full if full is tensor else full.cpu()
    return found


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank; they must all call it if it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def split_like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, equal on every rank, split as `model` is; without a word between the ranks."""
    if not is_sharded(model):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(model.device)
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)

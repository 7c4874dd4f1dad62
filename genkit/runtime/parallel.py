"""A model on several ranks: copies that average their gradients, or one that is split among them.

Here too: gradients and batch-norm of copies that nobody wraps, as a GAN's, whose passes
through two networks are no plain forward and backward.

ddp   every rank has the whole model (DistributedDataParallel, Li et al. 2020)
fsdp  every rank has its part of each tensor (FSDP2; Zhao et al. 2023, after ZeRO-3,
      Rajbhandari et al. 2020)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
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


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients by their means over the ranks, which must all have the same ones, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def share_statistics(module: nn.Module) -> None:
    """Have each batch-norm in a module that trains normalise by the batch of all ranks; in place.

    Names and tensors stay, and so do checkpoints. torch's own SyncBatchNorm needs a GPU.
    """
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = _SharedBatchNorm2d


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch-norm over the images of all ranks, each of which has as many (Ioffe and Szegedy 2015)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()
        mean = _MeanOverRanks.apply(wide.mean((0, 2, 3)))  # (C,)
        centred = wide - mean[:, None, None]
        variance = _MeanOverRanks.apply(centred.square().mean((0, 2, 3)))
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                count = x.numel() // x.shape[1] * dist.get_world_size()
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1)), share)  # unbiased, as torch keeps it
        scale = (variance + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)


class _MeanOverRanks(torch.autograd.Function):
    """A mean whose gradient, too, is that of the losses of all ranks."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _mean_over_ranks(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _mean_over_ranks(gradient)


def _mean_over_ranks(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


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

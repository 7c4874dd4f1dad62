"""One optimiser step: the examples, the gradient, the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genkit.runtime.manager import Runtime, is_out_of_memory
from genkit.text.data import Corpus
from genkit.text.losses import IGNORE
from genkit.text.models.gpt import GPT
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.optim import clip_gradients, step_optimizers

Loss = Callable[[Tensor, Tensor], Tensor]
OUT_OF_MEMORY = "use a smaller --batch-size, a larger --accumulate or a smaller --preset"


def training_batch(config: TextTrainConfig, model: GPT, corpus: Corpus, step: int) -> tuple[Tensor, Tensor]:
    """x, y (B, T) of a step."""
    block_size = config.block_size or model.config.block_size
    return corpus.batch(block_size=block_size, batch_size=config.batch_size, seed=config.seed, step=step)


def train_step(
    model: nn.Module,
    compute_loss: Loss,
    optimizers: Mapping[str, Optimizer],
    x: Tensor,
    y: Tensor,
    runtime: Runtime,
    *,
    parts: int,
    grad_clip: float,
    step: int,
) -> tuple[float, float, int]:
    """One optimiser step over x, y (B, T), in `parts` micro-batches, or more where memory is short.

    Each rank does its own B / world_size rows, in `parts` micro-batches.

    Args:
        compute_loss: mean loss of ids and targets; the module in it is what `Runtime.wrap` gave.
        step: names the random numbers of dropout, which depend on nothing else but the run's seed.

    Returns:
        this rank's share of the mean loss in nats a counted target, the gradient's norm
        before clipping, and the number of micro-batches it took.

    Raises:
        RuntimeError: out of memory even with one row at a time, or on one of several ranks.
    """
    counted = max(1, int((y != IGNORE).sum()))
    x, y = (rows.chunk(runtime.world_size)[runtime.rank] for rows in (x, y))
    while True:
        runtime.reseed(f"step {step} rank {runtime.rank}")
        try:
            loss = backward(compute_loss, x.chunk(parts), y.chunk(parts), counted, runtime)
            break
        except (RuntimeError, MemoryError) as error:
            # the other ranks are in the middle of the pass
            if not is_out_of_memory(error) or 2 * parts > len(x) or runtime.world_size > 1:
                raise
        # outside of the handler, which would keep the failed pass alive
        model.zero_grad(set_to_none=True)
        runtime.empty_cache()
        parts = next(more for more in range(2 * parts, len(x) + 1) if len(x) % more == 0)
    norm = clip_gradients(optimizers, model.parameters(), scaler=runtime.scaler, largest=grad_clip)
    step_optimizers(optimizers, scaler=runtime.scaler)
    if runtime.scaler is not None:
        runtime.scaler.update()
    return loss.item(), norm.item(), parts


def backward(compute_loss: Loss, xs: Sequence[Tensor], ys: Sequence[Tensor], counted: int, runtime: Runtime) -> Tensor:
    """Add the gradient of the mean loss over `counted` targets, those of all ranks, to the parameters.

    Returns:
        this rank's share of that loss, a scalar.
    """
    loss = torch.zeros((), device=runtime.device)
    for number, (x, y) in enumerate(zip(xs, ys, strict=True), start=1):  # (B / parts, T) each
        own = int((y != IGNORE).sum())
        with nullcontext() if number == len(xs) else runtime.local_gradients():
            with runtime.autocast():
                ids, targets = (part.to(runtime.device, non_blocking=True) for part in (x, y))
                mean = compute_loss(ids, targets)
            part = (mean if own else mean.nan_to_num()) * (own / counted)
            scaled = runtime.scaler.scale(part) if runtime.scaler else part
            # ranks take the mean of their gradients, not the sum
            (scaled * runtime.world_size).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    return loss

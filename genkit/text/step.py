"""One optimiser step: the examples, the gradient, the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from genkit.runtime.manager import Runtime, derive_seed, is_out_of_memory
from genkit.text.config import TextTrainConfig
from genkit.text.data import Corpus
from genkit.text.losses import IGNORE
from genkit.text.models.gpt import GPT
from genkit.training.optim import clip_gradients, step_optimizers

Loss = Callable[[Tensor, Tensor], Tensor]


def training_batch(config: TextTrainConfig, model: GPT, corpus: Corpus, step: int) -> tuple[Tensor, Tensor]:
    """x, y (B, T) of a step."""
    block_size = config.block_size or model.config.block_size
    return corpus.batch(block_size=block_size, batch_size=config.batch_size, seed=config.seed, step=step)


def train_step(
    model: GPT,
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

    Args:
        step: names the random numbers of dropout, which depend on nothing else but the run's seed.

    Returns:
        mean loss in nats a counted target, the gradient's norm before clipping, and the
        number of micro-batches it took.

    Raises:
        RuntimeError: out of memory even with one row at a time.
    """
    while True:
        torch.manual_seed(derive_seed(runtime.seed, f"step {step}"))
        try:
            loss = backward(compute_loss, x.chunk(parts), y.chunk(parts), runtime)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or 2 * parts > len(x):
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


def backward(compute_loss: Loss, xs: tuple[Tensor, ...], ys: tuple[Tensor, ...], runtime: Runtime) -> Tensor:
    """Add the gradient of the mean loss over all counted targets to the parameters; returns that loss, a scalar."""
    counted = sum(int((y != IGNORE).sum()) for y in ys)
    loss = torch.zeros((), device=runtime.device)
    for x, y in zip(xs, ys, strict=True):  # (B / parts, T) each
        with runtime.autocast():
            mean = compute_loss(x.to(runtime.device), y.to(runtime.device))
        part = mean * (int((y != IGNORE).sum()) / counted)
        (runtime.scaler.scale(part) if runtime.scaler else part).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    return loss

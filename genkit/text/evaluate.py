"""Loss, perplexity and bits per byte of held-out text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from genkit import library
from genkit.errors import InputError, UsageError
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.evalconfig import EvalConfig
from genkit.text.heldout import Chunk, HeldOut
from genkit.text.losses import IGNORE
from genkit.text.models.gpt import GPT
from genkit.text.models.store import check_usable, load_model, read_config
from genkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from genkit.text.models.hubloss import HubScorer

_BATCH_TOKENS = 16_384  # of the windows that go through the model together

_OTHERS = {  # what a family is, and what to do with it
    "seq2seq": ("a sequence-to-sequence model", "give pairs: genkit eval MODEL --data pairs.jsonl --metric bleu"),
    "masked": ("a masked model", "use genkit fill"),
    "classifier": ("a classifier", "give labelled data"),
}

Window = tuple[np.ndarray, np.ndarray]
Progress = Callable[[float, int, float], None]


@torch.no_grad()
def evaluate(
    model: GPT,
    tokens: np.ndarray,
    runtime: Runtime,
    *,
    bytes_per_token: float,
    max_tokens: int,
    batch_size: int,
    mask: np.ndarray | None = None,
) -> dict[str, float]:
    """Mean cross-entropy over non-overlapping windows, spread evenly over `tokens`: validation while training.

    Each rank takes its share of the windows, and as many forward passes as the others.

    Args:
        tokens: (n,) token ids, at least two.
        bytes_per_token: of the whole validation text, end-of-text marks counted in.
        max_tokens: measure no more than about this many.
        mask: (n,) not zero where a token counts as a target; default: all do.

    Returns:
        `val_loss` in nats a token, `val_ppl`, and `val_bpb` in bits a byte, the
        figure that compares across tokenizers.

    Raises:
        InputError: no token counts.
    """
    first, block = side_by_side(len(tokens), model.config.block_size, mask)
    places = np.linspace(0, len(first) - 1, num=min(len(first), max(1, max_tokens // block))).astype(int)
    share = math.ceil(len(places) / runtime.world_size)
    own = np.arange(runtime.rank, share * runtime.world_size, runtime.world_size)  # beyond the last: nothing counts
    model.eval()
    total = np.zeros(2)
    for rows in np.array_split(own, math.ceil(share / batch_size)):
        starts = first[places[np.minimum(rows, len(places) - 1)]]
        spans = starts[:, None] + np.arange(block + 1)
        ids = tokens[spans].astype(np.int64)  # (B, T + 1)
        kept = np.broadcast_to(rows[:, None] < len(places), spans.shape) & (True if mask is None else mask[spans] != 0)
        total += _loss(model, ids[:, :-1], np.where(kept, ids, IGNORE)[:, 1:], runtime)
    model.train()
    nats, counted = runtime.mean(torch.tensor(total, dtype=torch.float32, device=runtime.device)).tolist()
    loss = nats / counted
    return {
        "val_loss": loss,
        "val_ppl": perplexity(loss),
        "val_bpb": loss / math.log(2) / bytes_per_token,
    }


def side_by_side(length: int, context: int, mask: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Where the windows begin that `evaluate` may look at, and their length in tokens.

    Args:
        length: of the text, in tokens; what is left behind the last whole window is not seen.
        mask: (length,) or None, as for `evaluate`; windows without a target are left out.

    Raises:
        InputError: no window has a target.
    """
    block = min(context, length - 1)
    first = np.arange((length - 1) // block) * block
    if mask is not None:
        first = first[mask[1 : len(first) * block + 1].reshape(-1, block).any(1)]
        if not len(first):
            raise InputError("no token of the validation text counts", "give answers, or more of them, to validate on")
    return first, block


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text.

    Attributes:
        loss: nats a token, over `tokens`.
        bits_per_byte: of all tokens together, by the UTF-8 bytes of the text.
        tokens, end_of_text, unknown, bytes, documents, conversations: see `HeldOut`.
        window, stride: in tokens.
        context_min: tokens before any scored one, but for those of the first window.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    end_of_text: int
    unknown: int
    bytes: int
    documents: int
    conversations: int
    window: int
    stride: int
    context_min: int


def evaluate_model(
    config: EvalConfig, folder: Path, runtime: Runtime, on_progress: Progress = lambda fraction, tokens, loss: None
) -> Evaluation:
    """Score every token of `config.data` once, with the model in `folder`, through a sliding window.

    The end-of-text tokens between the documents are scored too, and one stands before
    the first token, so that this one is as well. Memory does not grow with the data.

    Args:
        on_progress: called now and then with the share that is done, the tokens scored
            and their loss.

    Raises:
        UsageError: a window that the model cannot see, or a stride beyond it.
        InputError: data or model refused, or a loss that is not finite.
        ResourceError: the memory does not suffice.
    """
    with memory_guard("use --device cpu, or a smaller model"):
        model, tokenizer, context = _opened(folder)
    window = config.block_size or context
    if window > context:
        raise UsageError(f"--block-size {window} is more than the model's context", f"use {context} or less")
    stride = config.step(window)
    text = HeldOut(config, tokenizer)
    with memory_guard("lower --batch-size or --block-size, or use --device cpu"):
        model.to(runtime.device).eval()
        rows = windows(text, tokenizer.eos_id, window, stride)
        loss = sliding_loss(
            model,
            rows,
            runtime,
            batch_size=config.batch_size or max(1, _BATCH_TOKENS // window),
            on_progress=lambda tokens, loss: on_progress(text.fraction * tokens / text.tokens, tokens, loss),
        )
    if not text.bytes:
        raise InputError("all answers are empty", "give conversations in which the assistant says something")
    return Evaluation(
        loss=loss,
        perplexity=perplexity(loss),
        bits_per_byte=loss * text.tokens / math.log(2) / text.bytes,
        tokens=text.tokens,
        end_of_text=text.ends,
        unknown=text.unknown,
        bytes=text.bytes,
        documents=text.documents,
        conversations=text.conversations,
        window=window,
        stride=stride,
        context_min=window - stride + 1,
    )


def _opened(folder: Path) -> tuple[GPT | HubScorer, Tokenizer, int]:
    """A model on the CPU, its tokenizer and its context.

    Raises:
        InputError: damaged files, or a model that does not continue texts.
    """
    family = library.family(folder)
    if family == "gpt":
        context, tokenizer = read_config(folder).block_size, Tokenizer.load(folder)
        model = load_model(folder)
        check_usable(folder, model, tokenizer)
        return model, tokenizer, context
    if family != "causal":
        what, remedy = _OTHERS[family]
        raise InputError(f"{folder} is {what}, which has no likelihood of a text by itself", remedy)
    from genkit.text.models.hubloss import load_scorer

    scorer, its_own = load_scorer(folder)
    return scorer, its_own, scorer.context


def windows(chunks: Iterable[Chunk], first: int, window: int, stride: int) -> Iterator[Window]:
    """Inputs and targets (T,) of each window over the token `first` and then all of `chunks`.

    T is `window`, but perhaps less in the last. A target is the next token, or IGNORE
    where that does not count or an earlier window has it: each token that counts is a
    target once, and all but those of the first window come after `window - stride + 1`
    others or more. Windows without a target are left out.
    """
    held, wanted = np.array([first], dtype=np.int64), np.array([IGNORE], dtype=np.int64)
    old = 0  # targets of `held` that a window has had
    for ids, targets in chunks:
        held, wanted = np.concatenate([held, ids]), np.concatenate([wanted, targets])
        while len(held) > window:
            yield from _window(held[:window], wanted[1 : window + 1], old)
            held, wanted, old = held[stride:], wanted[stride:], window - stride
    yield from _window(held[:-1], wanted[1:], old)


def _window(inputs: np.ndarray, targets: np.ndarray, old: int) -> Iterator[Window]:
    fresh = np.where(np.arange(len(targets)) < old, IGNORE, targets)
    if (fresh != IGNORE).any():
        yield inputs, fresh


@torch.no_grad()
def sliding_loss(
    model: GPT | HubScorer,
    rows: Iterable[Window],
    runtime: Runtime,
    *,
    batch_size: int,
    on_progress: Callable[[int, float], None] = lambda tokens, loss: None,
) -> float:
    """Mean cross-entropy in nats of all targets that count; `model` is in evaluation mode.

    Args:
        rows: as `windows` gives them; `batch_size` of them go through the model together.
        on_progress: called after each batch with the tokens scored and their loss.

    Raises:
        InputError: nothing counts, or the loss is not finite.
    """
    total = np.zeros(2)
    pending = iter(rows)
    while batch := list(itertools.islice(pending, batch_size)):
        inputs, targets = zip(*batch, strict=True)
        total += _loss(model, _filled(inputs, 0), _filled(targets, IGNORE), runtime)
        if not math.isfinite(total[0]):
            raise InputError("the loss is not finite", "use --precision fp32, or another model if that does not help")
        on_progress(int(total[1]), total[0] / total[1])
    if not total[1]:
        raise InputError("there is no token to score", "give more text, or raise --max-tokens")
    return float(total[0] / total[1])


def _filled(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
    """(B, T) from rows of up to T; a causal model does not look at what fills their ends."""
    filled = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return filled


def _loss(model: GPT | HubScorer, inputs: np.ndarray, targets: np.ndarray, runtime: Runtime) -> tuple[float, int]:
    """Sum in nats over the targets that count, and how many these are; inputs, targets: (B, T)."""
    x, y = (torch.from_numpy(ids).to(runtime.device) for ids in (inputs, targets))
    with runtime.autocast():
        mean: Tensor = model.loss(x, y)
    counted = int((targets != IGNORE).sum())
    return (mean.item() * counted if counted else 0.0), counted


def perplexity(loss: float) -> float:
    """e^loss, and a large number instead of infinity."""
    return math.exp(min(loss, 700.0))

"""What a run begins with: a model, new or given, that fits its data, and the optimizers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch.optim import Optimizer

from genkit import library
from genkit.config import flag_name
from genkit.errors import InputError, UsageError
from genkit.runtime.manager import Runtime
from genkit.text.config import GPTConfig, TextTrainConfig
from genkit.text.data import Corpus
from genkit.text.models.gpt import GPT
from genkit.text.models.store import check_usable, load_model
from genkit.text.shape import model_shape
from genkit.text.tokenizer import Tokenizer
from genkit.training.optim import text_optimizers

# what --init-from decides
_BROUGHT_ALONG = frozenset(
    {"arch", "preset", "n_layer", "n_embd", "n_head", "n_kv_head", "tie_embeddings", "tokenizer", "vocab_size"}
)


def starting_point(config: TextTrainConfig, *, resumed: Path | None = None) -> tuple[GPT | None, Tokenizer | None]:
    """The model and tokenizer of `--init-from`, or neither; a resumed run has both in its own folder.

    Raises:
        UsageError: settings of a model or tokenizer that the given one brings along.
        InputError: no such model.
    """
    if config.init_from is None:
        return None, None
    for field in dataclasses.fields(config):
        if field.name in _BROUGHT_ALONG and getattr(config, field.name) != field.default:
            raise UsageError(
                f"{flag_name(field)} does not go with --init-from",
                f"{config.init_from} brings its own; leave one of them out",
            )
    folder = resumed or library.find(config.init_from)
    model, tokenizer = load_model(folder, dropout=config.dropout), Tokenizer.load(folder)
    check_usable(folder, model, tokenizer)
    return model, tokenizer


def check_fit(config: TextTrainConfig, model: GPT, corpus: Corpus) -> None:
    """Refuse, before anything is saved, what would fail later.

    Raises:
        UsageError: a block longer than the model's context.
        InputError: a text shorter than a block, or a sample prompt that fills the context.
    """
    context = model.config.block_size
    if (config.block_size or 0) > context:
        raise UsageError(f"--block-size {config.block_size} is more than the model's context", f"use {context} or less")
    corpus.batch(block_size=config.block_size or context, batch_size=1, seed=config.seed, step=0)
    if (length := len(corpus.tokenizer.encode(config.sample_prompt))) >= context:
        raise InputError(f"--sample-prompt has {length} tokens, the model's context {context}", "shorten it")


def corpus_shape(config: TextTrainConfig, corpus: Corpus, runtime: Runtime) -> GPTConfig:
    """The model for this corpus on this machine."""
    return model_shape(
        config,
        vocab_size=corpus.tokenizer.vocab_size,
        eos_id=corpus.tokenizer.eos_id,
        tokens=len(corpus.train),
        device=runtime.placement.device,
    )


def optimizers_of(model: GPT, config: TextTrainConfig, runtime: Runtime) -> dict[str, Optimizer]:
    """The optimizers that the settings ask for."""
    return text_optimizers(
        model,
        optimizer=config.optimizer,
        lr=config.lr,
        muon_lr=config.muon_lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        # fp16 has too little range for the iteration
        dtype=torch.float32 if runtime.dtype is torch.float32 else torch.bfloat16,
    )

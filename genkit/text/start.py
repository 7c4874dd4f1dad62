"""What a run begins with: a model, new or given, that fits its data, and the optimizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from genkit import library
from genkit.config import flag_name
from genkit.errors import InputError, UsageError
from genkit.files import read_json
from genkit.runtime.manager import Runtime
from genkit.runtime.seeds import derive_seed
from genkit.text.adapters import model_hash
from genkit.text.config import GPTConfig
from genkit.text.data import Corpus
from genkit.text.evaluate import side_by_side
from genkit.text.models.gpt import GPT
from genkit.text.models.lora import adapter_of, add_lora
from genkit.text.models.store import check_usable, load_model
from genkit.text.recipe import settle
from genkit.text.seq2seq.flags import check_rates, check_text_settings
from genkit.text.shape import model_shape
from genkit.text.tokenizer import Tokenizer
from genkit.text.trainconfig import TextTrainConfig, parse_freeze
from genkit.training.optim import text_optimizers
from genkit.training.record import read_record
from genkit.training.state import TrainState

# what --init-from decides
_BROUGHT_ALONG = frozenset(
    {"arch", "preset", "n_layer", "n_embd", "n_head", "n_kv_head", "tie_embeddings", "tokenizer", "vocab_size"}
)
_MOST_UNKNOWN = 0.05  # of the tokens; beyond that a model learns what stands for them
_CHUNK = 1 << 24  # tokens
_CREDIT = ("name", "license", "credit")
_GENERATIONS = 32  # of models that began as one another; a record that tells of more may be a trap


@dataclass(frozen=True)
class Start:
    """What `--init-from` gives a run; nothing at all for one from scratch.

    Attributes:
        origin: for `genkit.json`: which model it was, and what that one was trained on.
    """

    model: GPT | None = None
    tokenizer: Tokenizer | None = None
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """A training run that begins with another model than `--init-from`, and learns from more than its text.

    Attributes:
        start: gives the model that the run begins with, or, from the folder of the run, goes on with.
        loss: mean loss of a model, ids and targets (B, T).
        command: what resumes the run, up to its flags.
    """

    start: Callable[[Path | None], Start]
    loss: Callable[[GPT, Tensor, Tensor], Tensor]
    command: str


def starting_point(config: TextTrainConfig, *, resumed: Path | None = None) -> Start:
    """The model of `--init-from`, frozen and adapted as the settings say.

    A resumed run has its weights in its own folder; one that trains adapters needs its base again.

    Raises:
        UsageError: settings of a model or tokenizer that the given one brings along, or layers
            that it has not.
        InputError: no such model, one that cannot be trained, or a base that has changed.
    """
    check_text_settings(config)
    if resumed is None:
        check_rates(config)
    if config.init_from is None:
        return Start()
    for setting in dataclasses.fields(config):
        if setting.name in _BROUGHT_ALONG and getattr(config, setting.name) != setting.default:
            raise UsageError(
                f"{flag_name(setting)} does not go with --init-from",
                f"{config.init_from} brings its own; leave one of them out",
            )
    folder = resumed if resumed is not None and not config.lora else find_given(config)
    if resumed is not None and config.lora:
        _check_unchanged(config, folder, read_record(resumed).get("base"))
    model, tokenizer = load_model(folder, dropout=config.dropout or 0.0), Tokenizer.load(resumed or folder)
    check_usable(folder, model, tokenizer)
    _freeze(config, model)
    if config.lora:
        add_lora(
            model,
            rank=config.lora,
            alpha=config.alpha,
            targets=config.lora_targets,
            dropout=config.lora_dropout,
            generator=torch.Generator().manual_seed(derive_seed(config.seed, "lora")),
        )
    return Start(model, tokenizer, {} if resumed is not None else origin(str(config.init_from), folder))


def find_given(config: TextTrainConfig) -> Path:
    """The folder of `--init-from`.

    Raises:
        UsageError: it lies in --out.
        InputError: there is none, or it holds nothing that can be trained.
    """
    name = str(config.init_from)
    if name not in library.bundled() and Path(name).resolve().is_relative_to(Path(config.out).resolve()):
        raise UsageError(f"--init-from {name} lies in --out {config.out}", "choose another --out")
    folder = library.find(name)
    if folder.is_file():
        raise InputError(
            f"--init-from {name}: a GGUF file is not trained further", "name the model directory that it was made of"
        )
    if library.kind(folder) != "text":
        raise InputError(f"--init-from {name} is an image model", "name a text model")
    if not library.is_adapter(folder) and (family := library.family(folder)) not in ("gpt", "seq2seq"):
        raise InputError(
            f"--init-from {name} is a {family} model that genkit train-text does not train",
            "name a GPT-2, Llama or Qwen3 model, or a sequence-to-sequence one; train-classifier takes the others",
        )
    if stored := library.quantization(folder):
        raise InputError(
            f"--init-from {name} is quantised to {stored.precision}, which is not trained further",
            "name the model that it was made of",
        )
    return folder


def _check_unchanged(config: TextTrainConfig, folder: Path, base: Any) -> None:
    if not isinstance(base, dict) or base.get("sha256") != model_hash(folder):
        raise InputError(
            f"{config.init_from} is not what it was when this run began", "bring it back, or start anew with --force"
        )


def origin(name: str, folder: Path) -> dict[str, Any]:
    """`base` and `trained_before` of the record of what is made of the model `name` in `folder`."""
    record = read_json(folder / library.RECORD) if (folder / library.RECORD).is_file() else {}
    found: dict[str, Any] = {"base": {"model": name, "sha256": model_hash(folder)}}
    if before := _history(record, _GENERATIONS):
        found["trained_before"] = before
    return found


def _history(record: Any, generations: int) -> dict[str, Any]:
    """Tokens and credit of a model's record, with those of the models that it began as."""
    if not isinstance(record, Mapping) or not generations:
        return {}
    trained, data = (part if isinstance(part := record.get(key), Mapping) else {} for key in ("trained", "data"))
    found: dict[str, Any] = {}
    if isinstance(tokens := trained.get("tokens"), int):
        found["trained"] = {"tokens": tokens}
    if credit := {key: data[key] for key in _CREDIT if isinstance(data.get(key), str)}:
        found["data"] = credit
    if before := _history(record.get("trained_before"), generations - 1):
        found["trained_before"] = before
    return found


def _freeze(config: TextTrainConfig, model: GPT) -> None:
    embedding, blocks = parse_freeze(config.freeze)
    layers = model.config.n_layer
    if blocks > layers:
        raise UsageError(f"--freeze {config.freeze}: the model has {layers} blocks", f"use {layers} or less")
    if embedding and blocks == layers and model.lm_head is None:
        raise UsageError(f"--freeze {config.freeze} leaves only a norm to train", "freeze fewer blocks")
    for module in [model.embed, model.positions] * embedding + list(model.blocks[:blocks]):
        if module is not None:
            module.requires_grad_(False)


def check_fit(config: TextTrainConfig, model: GPT, corpus: Corpus) -> list[str]:
    """Refuse, before anything is saved, what would fail later.

    Returns:
        what the user should know although it goes on.

    Raises:
        UsageError: a block longer than the model's context, or --patience without validation.
        InputError: a text shorter than a block or largely of unknown characters, nothing
            to validate on, or a sample prompt that fills the context.
    """
    context = model.config.block_size
    if (config.block_size or 0) > context:
        raise UsageError(f"--block-size {config.block_size} is more than the model's context", f"use {context} or less")
    corpus.batch(block_size=config.block_size or context, batch_size=1, seed=config.seed, step=0)
    if corpus.val is None and config.patience:
        raise UsageError("--patience needs text to validate on", "hold some out with --val-fraction or --val-data")
    if corpus.val is not None:
        side_by_side(len(corpus.val), context, corpus.val_mask)
        if not corpus.bytes_val_targets:
            raise InputError("all answers to validate on are empty", "name others with --val-data")
    if (length := len(corpus.tokenizer.encode(config.sample_prompt))) >= context:
        raise InputError(f"--sample-prompt has {length} tokens, the model's context {context}", "shorten it")
    return _unknown(corpus)


def _unknown(corpus: Corpus) -> list[str]:
    """A word on the characters that the vocabulary has not, if there are any."""
    unknown = corpus.tokenizer.unknown_id
    if unknown is None:
        return []
    count, first = 0, -1
    for start in range(0, len(corpus.train), _CHUNK):
        found = np.flatnonzero(corpus.train[start : start + _CHUNK] == unknown)
        if first < 0 and len(found):
            first = start + int(found[0])
        count += len(found)
    if not count:
        return []
    tokens = corpus.train[max(0, first - 20) : first + 21].tolist()
    around = "".join("\ufffd" if token == unknown else corpus.tokenizer.decode([token]) for token in tokens)
    said = f"{count:,} of {len(corpus.train):,} tokens are characters unknown to the tokenizer, first in {around!r}"
    if count > _MOST_UNKNOWN * len(corpus.train):
        raise InputError(said, "use a model or tokenizer that knows them, such as a bpe one, or train from scratch")
    return [f"{said}: the model learns {corpus.tokenizer.decode([unknown])!r} for them"]


def settled(config: TextTrainConfig, start: Start, corpus: Corpus, runtime: Runtime) -> TextTrainConfig:
    """`config` with a value for everything that it leaves open, as `recipe.settle`."""
    return settle(
        config,
        given=start.model.config if start.model else None,
        vocab_size=corpus.tokenizer.vocab_size,
        tokens=corpus.tokens_per_epoch,
        runtime=runtime,
    )


def corpus_shape(config: TextTrainConfig, corpus: Corpus) -> GPTConfig:
    """The model for this corpus."""
    return model_shape(config, vocab_size=corpus.tokenizer.vocab_size, eos_id=corpus.tokenizer.eos_id)


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


def train_state(model: GPT, optimizers: Mapping[str, Optimizer], runtime: Runtime, start: Start) -> TrainState:
    """What checkpoints hold: the model, or the adapters alone where there are any, and the optimizers."""
    adapter = adapter_of(model)
    return TrainState(
        modules={"model": model} if adapter is None else {"adapter": adapter},
        optimizers=dict(optimizers),
        scaler=runtime.scaler,
        extra=dict(start.origin),
    )

"""Encoder-decoder models of `transformers` with their tokenizers, as training takes them: T5, BART, Marian."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG, GENERATION, WEIGHTS
from genkit.text.losses import IGNORE
from genkit.text.models.hub import load_hub, load_tokenizer, quiet_transformers
from genkit.training.weights import load_tensors

_ONE_FILE = "1000GB"  # as the largest shard
_NO_LIMIT = 1 << 20  # tokens
_DROPOUTS = ("dropout", "dropout_rate")
_OTHER_DROPOUTS = ("attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "layerdrop")


class ModelFiles(NamedTuple):
    """What a model directory holds besides its record."""

    tensors: Mapping[str, Tensor]
    json: Mapping[str, Mapping[str, Any]]
    raw: Mapping[str, bytes]


class Seq2Seq(nn.Module):
    """The loss of an encoder-decoder on pairs.

    Args:
        body: a `*ForConditionalGeneration`, or `MarianMTModel`, of `transformers`.
        tokenizer: its own; for targets it may be another one than for sources.
        label_smoothing: share of a target's probability that is spread over the
            vocabulary while training (Szegedy et al. 2016).

    Attributes:
        context: tokens that either side can have.
    """

    def __init__(self, body: Any, tokenizer: Any, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.body, self.tokenizer, self.label_smoothing = body, tokenizer, label_smoothing
        self.pad_id = int(body.config.pad_token_id)
        self.width = int(body.config.d_model)
        self.context = int(getattr(body.config, "max_position_embeddings", _NO_LIMIT))

    def forward(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the targets that count.

        Args:
            sources: (B, S) token ids, IGNORE where a row has ended.
            targets: (B, T) token ids with their end marks, IGNORE where a row has ended.
                The decoder reads them shifted to the right, behind its start token.
        """
        mask = sources != IGNORE
        logits = self.body(
            input_ids=sources.masked_fill(~mask, self.pad_id),
            attention_mask=mask.long(),
            decoder_input_ids=self.body.prepare_decoder_input_ids_from_labels(labels=targets),
            use_cache=False,
        ).logits  # (B, T, V)
        return F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORE,
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )

    @torch.no_grad()
    def write(self, sources: Sequence[Sequence[int]], max_new_tokens: int, device: torch.device) -> list[str]:
        """The likeliest target of each source by greedy search, as text."""
        length = max(map(len, sources))
        rows = [[*ids, *[self.pad_id] * (length - len(ids))] for ids in sources]
        mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids in sources]
        with quiet_transformers():
            found = self.body.generate(
                torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                num_beams=1,
                do_sample=False,
                max_new_tokens=max_new_tokens,
            )
            texts: list[str] = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return texts

    def encode(self, texts: Sequence[str], *, targets: bool, limit: int) -> tuple[list[list[int]], int]:
        """Token ids of each text with the model's own marks, and how many texts were cut to `limit`."""
        name = "text_target" if targets else "text"
        rows: list[list[int]] = self.tokenizer(**{name: list(texts)}, verbose=False)["input_ids"]
        long = [place for place, ids in enumerate(rows) if len(ids) > limit]
        if long:
            cut = {name: [texts[place] for place in long], "truncation": True, "max_length": limit}
            for place, ids in zip(long, self.tokenizer(**cut)["input_ids"], strict=True):
                rows[place] = ids
        return rows, len(long)

    def num_parameters(self) -> int:
        """Those that are trained; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def line(self) -> str:
        """`t5: 60.5 M parameters, width 512, vocabulary 32,128`"""
        config = self.body.config
        size = self.num_parameters() / 1e6
        return f"{config.model_type}: {size:.3g} M parameters, width {self.width}, vocabulary {config.vocab_size:,}"

    def files(self) -> ModelFiles:
        """The model as `AutoModelForSeq2SeqLM` and `AutoTokenizer` read it."""
        with tempfile.TemporaryDirectory(prefix="genkit-") as name, quiet_transformers():
            folder = Path(name)
            self.body.save_pretrained(folder, max_shard_size=_ONE_FILE)
            self.tokenizer.save_pretrained(folder)
            tensors = load_tensors(folder / WEIGHTS)
            json = {CONFIG: read_json(folder / CONFIG)}
            if (folder / GENERATION).is_file():
                json[GENERATION] = read_json(folder / GENERATION)
            rest = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in (WEIGHTS, *json)}
        return ModelFiles(tensors, json, rest)


def load_seq2seq(folder: Path, *, dropout: float | None = None, label_smoothing: float = 0.0) -> Seq2Seq:
    """The encoder-decoder in `folder`, on the CPU in fp32.

    Args:
        dropout: instead of the model's own; 0 turns off all kinds of it.

    Raises:
        InputError: a file is missing or damaged, or `transformers` does not know the architecture.
    """
    body, tokenizer = load_hub(folder, "seq2seq"), load_tokenizer(folder)
    if dropout is not None:
        _set_dropout(body, dropout)
    if tokenizer.pad_token_id is None or body.config.pad_token_id is None:
        raise InputError(f"{folder}: there is no padding token", "name a T5, BART or Marian model")
    if len(tokenizer) > body.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {body.config.vocab_size}",
            "tokenizer and weights must come from the same model",
        )
    return Seq2Seq(body, tokenizer, label_smoothing)


def _set_dropout(body: Any, rate: float) -> None:
    """Modules and configuration alike, which is saved with the model."""
    names = _DROPOUTS if rate else _DROPOUTS + _OTHER_DROPOUTS
    for owner in (body.config, *body.modules()):
        for name in ("p",) if isinstance(owner, nn.Dropout) else names:
            if isinstance(getattr(owner, name, None), float | int):
                setattr(owner, name, rate)

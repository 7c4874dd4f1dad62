"""From documents to token files to batches.

`prepare` reads a corpus twice, once to learn its alphabet and size and once to
tokenize it, and leaves its tokens in memory-mapped files; `Corpus.batch` cuts
training examples out of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from genkit.errors import InputError
from genkit.files import TEMPORARY, read_json, write_json
from genkit.text.blocks import Blocks, Segment
from genkit.text.chat import TEMPLATE
from genkit.text.documents import list_files
from genkit.text.learner import KINDS
from genkit.text.readings import Progress
from genkit.text.sources import parse_sources
from genkit.text.tokenfiles import TRAIN, TRAIN_MASK, VAL, VAL_MASK, build
from genkit.text.tokenizer import Tokenizer
from genkit.text.trainconfig import TextTrainConfig

_FORMAT = 2  # of the token files; a new one makes them again
_META = "meta.json"
_SHOWN = 10
_COUNTS = (
    *("documents", "conversations", "duplicates", "bytes", "bytes_val", "bytes_val_targets"),
    *("tokens_train", "tokens_val", "targets_train", "targets_val"),
)
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype(np.uint16), "uint32": np.dtype(np.uint32)}


@dataclass(frozen=True)
class Corpus:
    """Tokenized text on the disk.

    Attributes:
        train, val: token ids, uint16 or uint32, memory-mapped; each document is
            followed by the end-of-text token. `val` is None when nothing is held out.
        train_mask, val_mask: as long as those, uint8: which tokens count as targets;
            None when all do.
        segments: stretches of `train` by the weight of their sources.
        tokenizer: what made them.
        fingerprint: SHA-256 over the files' names, sizes and times, and the settings.
        documents: in `train` and `val`; `conversations` of those that were read.
        duplicates: documents left out because the same text is there already.
        skipped: what was wrong with each file that was left out.
        bytes: UTF-8 bytes of the text in `train` and `val`; `bytes_val` in `val` alone,
            `bytes_val_targets` of them in text that counts.
        tokens_train, tokens_val: lengths of `train` and `val`; `targets_train` and
            `targets_val` of them count.
    """

    train: np.ndarray
    val: np.ndarray | None
    train_mask: np.ndarray | None
    val_mask: np.ndarray | None
    segments: tuple[Segment, ...]
    tokenizer: Tokenizer
    fingerprint: str
    documents: int
    conversations: int
    duplicates: int
    skipped: tuple[str, ...]
    bytes: int
    bytes_val: int
    bytes_val_targets: int
    tokens_train: int
    tokens_val: int
    targets_train: int
    targets_val: int

    def batch(self, *, block_size: int, batch_size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """The training examples of one step, x and y (B, T), as `Blocks.batch`."""
        return self._blocks.batch(block_size=block_size, batch_size=batch_size, seed=seed, step=step)

    @functools.cached_property
    def _blocks(self) -> Blocks:
        return Blocks(self.train, self.segments, self.train_mask)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of all sources, each as often as its weight says."""
        return round(sum((stop - start) * weight for start, stop, weight in self.segments))

    @property
    def bytes_per_target(self) -> float:
        """Bytes of validation text that a counted token stands for, end-of-text marks counted in."""
        return self.bytes_val_targets / self.targets_val

    def line(self) -> str:
        """`3,636 documents, 37.0 MB, 9,402,113 tokens (3.94 bytes each), ...`, as one sentence."""
        tokens = self.tokens_train + self.tokens_val
        repeated = f" ({self.duplicates:,} repeated ones left out)" if self.duplicates else ""
        line = (
            f"{self.documents:,} document{'s' * (self.documents != 1)}{repeated}, "
            f"{self.bytes / 1e6:.1f} MB, {tokens:,} tokens "
            f"({self.bytes / tokens:.2f} bytes each), {self.tokens_val:,} of them for validation, "
            f"vocabulary {self.tokenizer.vocab_size:,}"
        )
        if any(weight != 1 for _, _, weight in self.segments):
            line += f", {self.tokens_per_epoch:,} tokens an epoch"
        if self.train_mask is not None:
            line += f", {100 * self.targets_train / self.tokens_train:.0f} % of what trains is learnt, the rest is read"
        return line

    def warnings(self) -> list[str]:
        """A sentence for each file that was left out, for ten of them at most."""
        shown = [f"left out: {reason}" for reason in self.skipped[:_SHOWN]]
        if (more := len(self.skipped) - _SHOWN) > 0:
            shown.append(f"left out: {more:,} bad files more, see {_META}")
        return shown


def prepare(
    config: TextTrainConfig,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    on_progress: Progress = lambda done, total: None,
    *,
    expected: str | None = None,
) -> Corpus:
    """Tokenize `config.data` into `folder`, or map what an earlier call left there.

    The folder gets `train.bin`, `val.bin`, the tokenizer and, last, `meta.json`:
    without that, whatever lies there is unfinished and made again.

    Args:
        tokenizer: to use instead of `config.tokenizer`.
        on_progress: called now and then with bytes read and bytes to read; the
            corpus is read twice.
        expected: the fingerprint that the data must have, of a run that is resumed.

    Raises:
        InputError: a file is missing, unreadable or not text; or the folder holds
            the tokens of other data or settings, or the data is not what was expected.
        OutputError: the folder cannot be written.
    """
    if not config.data:
        raise InputError("there is no text to train on", "name it with --data")
    if tokenizer is None and config.tokenizer not in KINDS:
        if not Path(config.tokenizer).exists():
            raise InputError(f"--tokenizer {config.tokenizer} is no file, nor one of {', '.join(KINDS)}")
        tokenizer = Tokenizer.load(config.tokenizer)
    made_from = _describe(config, tokenizer)
    fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    meta = _finished(folder, made_from)
    if expected not in (None, fingerprint):
        raise InputError(
            f"{', '.join(filter(None, (*config.data, config.val_data)))} is not what this run was trained on",
            "bring back the old data and settings, or start anew with --force",
        )
    if meta is None:
        for leftover in (folder / _META, folder / TRAIN_MASK, folder / VAL_MASK, *folder.glob(TEMPORARY)):
            leftover.unlink(missing_ok=True)
        sizes = build(config, folder, tokenizer, on_progress)
        if (changed := _changed(made_from, _describe(config, tokenizer))) is not None:
            raise InputError(f"{changed} changed while it was read", "start again when nothing writes to it")
        meta = {"fingerprint": fingerprint, **sizes, "made_from": made_from}
        write_json(folder / _META, meta)
    train = _map(folder / TRAIN, _DTYPES[meta["dtype"]])
    assert train is not None  # the split leaves some text to train on
    return Corpus(
        train=train,
        val=_map(folder / VAL, _DTYPES[meta["dtype"]]),
        train_mask=_map(folder / TRAIN_MASK, np.dtype(np.uint8)),
        val_mask=_map(folder / VAL_MASK, np.dtype(np.uint8)),
        segments=tuple(Segment(*segment) for segment in meta["segments"]),
        tokenizer=Tokenizer.load(folder),
        fingerprint=meta["fingerprint"],
        skipped=tuple(meta["skipped"]),
        **{name: meta[name] for name in _COUNTS},
    )


# ---- what was built from what ------------------------------------------------


def _describe(config: TextTrainConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Everything that the token files depend on."""
    given = hashlib.sha256(tokenizer.to_json().encode()).hexdigest() if tokenizer else None
    template = (tokenizer and tokenizer.chat_template) or TEMPLATE
    return {
        "format": _FORMAT,
        "data": [[source.path, _state(source.path), source.weight] for source in parse_sources(config.data)],
        "val_data": [[config.val_data, _state(config.val_data)]] if config.val_data else [],
        "tokenizer": given or config.tokenizer,
        "chat_template": hashlib.sha256(template.encode()).hexdigest(),
        "text_field": config.text_field,
        "val_fraction": config.val_fraction,
        "vocab_size": config.vocab_size,
        "encoding_errors": config.encoding_errors,
        "on_bad_file": config.on_bad_file,
        "keep_duplicates": config.keep_duplicates,
    }


def _state(path: str) -> str:
    """Hash of the names, sizes and times of the files behind a path."""
    state = hashlib.sha256()
    for file in list_files([path]):
        status = file.stat()
        state.update(b"%s\0%d\0%d\n" % (os.fsencode(file), status.st_size, status.st_mtime_ns))
    return state.hexdigest()


def _finished(folder: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The `meta.json` of whole token files; None when there are none."""
    if not (folder / _META).is_file():
        return None
    meta = read_json(folder / _META)
    if (changed := _changed(meta.get("made_from", {}), made_from)) is not None:
        raise InputError(
            f"{changed} is not what {folder} was made from",
            "bring back the old data and settings, or start anew with --force",
        )
    try:
        width, masked = _DTYPES[meta["dtype"]].itemsize, meta["conversations"] > 0
        train, val = meta["tokens_train"], meta["tokens_val"]
        sizes = {TRAIN: train * width, VAL: val * width, TRAIN_MASK: train * masked, VAL_MASK: val * masked}
        whole = all(_size(folder / name) == size for name, size in sizes.items())
    except (KeyError, TypeError, OSError):
        whole = False
    return meta if whole else None


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first path, or else flag, that differs."""
    for name, value in new.items():
        before = old.get(name)
        if before == value:
            continue
        if isinstance(before, list) and [path for path, *_ in before] == [path for path, *_ in value]:
            return next(str(now[0]) for now, was in zip(value, before, strict=True) if now != was)
        return "--" + name.replace("_", "-")
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray | None:
    return np.memmap(path, dtype=dtype, mode="r") if _size(path) else None

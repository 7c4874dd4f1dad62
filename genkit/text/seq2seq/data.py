"""Pairs made ready: tokenized, and divided into those that train and those that validate."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genkit.errors import InputError, UsageError
from genkit.text.losses import IGNORE
from genkit.text.pairs import Pair, read_pairs
from genkit.text.seq2seq.model import Seq2Seq
from genkit.text.sources import parse_sources
from genkit.text.trainconfig import TextTrainConfig

Progress = Callable[[int, int], None]

USUAL_LENGTH = 512  # tokens of a side, at most, where nobody says more
_AT_ONCE = 1024  # pairs to tokenize together
_MOST_UNKNOWN = 0.05  # of the tokens, as for plain text
_SHOWN = 32  # held-out pairs whose targets the model writes while it trains


@dataclass(frozen=True)
class PairSet:
    """Tokenized pairs in memory.

    Attributes:
        ids: (n,) int32, the sides of all pairs, one behind the other.
        starts: (2 N + 1,) where the sides begin: source i at 2 i, its target at 2 i + 1.
        train: numbers of the pairs to train on, an array for each weight in `weights`.
        val: (V,) numbers of the held-out pairs, perhaps none.
        shown: some of `val`, as numbers and as texts.
        fingerprint: SHA-256 of all texts, in order.
        duplicates: pairs left out because they are there already, or validate.
        cut_sources, cut_targets: sides that were longer than the limits.
        unknown: tokens that stand for characters the tokenizer has not.
    """

    ids: np.ndarray
    starts: np.ndarray
    train: tuple[np.ndarray, ...]
    weights: tuple[float, ...]
    val: np.ndarray
    shown: tuple[tuple[int, Pair], ...]
    fingerprint: str
    duplicates: int
    cut_sources: int
    cut_targets: int
    unknown: int

    def source(self, pair: int) -> np.ndarray:
        """(S,) the ids of a source."""
        return self.ids[self.starts[2 * pair] : self.starts[2 * pair + 1]]

    def target(self, pair: int) -> np.ndarray:
        """(T,) the ids of a target."""
        return self.ids[self.starts[2 * pair + 1] : self.starts[2 * pair + 2]]

    def lengths(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of the sources and of the targets of some pairs."""
        sizes = np.diff(self.starts)
        return sizes[2 * pairs], sizes[2 * pairs + 1]

    def tokens(self, pairs: np.ndarray) -> int:
        """Tokens of both sides of some pairs."""
        return int(np.sum(self.lengths(pairs)))

    def padded(self, pairs: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Sources (B, S) and targets (B, T), int64, with IGNORE behind the end of each."""
        chosen = [int(pair) for pair in pairs]
        return _filled([self.source(pair) for pair in chosen]), _filled([self.target(pair) for pair in chosen])

    @property
    def pairs_per_epoch(self) -> int:
        """Training pairs, each as often as its weight says."""
        return sum(share(numbers, weight) for numbers, weight in zip(self.train, self.weights, strict=True))

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of both sides of these."""
        counts = [self.tokens(numbers) / len(numbers) for numbers in self.train]
        shares = [share(numbers, weight) for numbers, weight in zip(self.train, self.weights, strict=True)]
        return round(sum(count * share for count, share in zip(counts, shares, strict=True)))

    def line(self) -> str:
        """`9,500 pairs to train on, 500 held out; 310,022 source and 280,110 target tokens`"""
        sources, targets = (int(lengths.sum()) for lengths in self.lengths(np.concatenate([*self.train, self.val])))
        repeated = f" ({self.duplicates:,} repeated ones left out)" if self.duplicates else ""
        return (
            f"{sum(map(len, self.train)):,} pairs to train on{repeated}, {len(self.val):,} held out; "
            f"{sources:,} source and {targets:,} target tokens"
        )

    def warnings(self, config: TextTrainConfig) -> list[str]:
        """What the user should know although training goes on."""
        said = []
        for count, side, limit in (
            (self.cut_sources, "source", config.max_source_tokens),
            (self.cut_targets, "target", config.max_target_tokens),
        ):
            if count:
                said.append(f"{count:,} {side}s are longer than --max-{side}-tokens {limit}: the rest is cut off")
        if self.unknown:
            said.append(f"{self.unknown:,} of {len(self.ids):,} tokens are characters unknown to the tokenizer")
        return said


def prepare(
    config: TextTrainConfig,
    model: Seq2Seq,
    on_progress: Progress = lambda done, total: None,
    *,
    expected: str | None = None,
) -> PairSet:
    """Read, tokenize and divide the pairs of `config`, whose limits are set.

    A pair that comes again is left out unless `keep_duplicates`. Without `val_data`, a
    pair is held out when a hash of its source says so: the same one in every run, and
    all pairs of a source are on one side.

    Args:
        on_progress: called now and then with the pairs read, and how many paths they come from.
        expected: the fingerprint of the data of a run that is resumed.

    Raises:
        InputError: as `read_pairs`; too many unknown tokens; nothing left to train on;
            or other data than when the run began.
        UsageError: --patience without anything to validate on.
    """
    sources = parse_sources(config.data)
    build = _Builder(config, model, on_progress)
    ends = [build.add(source.path) for source in sources]
    named = ends[-1]
    if config.val_data is not None:
        build.add(config.val_data)
    build.check_unknown()
    fingerprint = build.digest.hexdigest()
    if expected not in (None, fingerprint):
        raise InputError("the data is not what it was when this run began", "bring it back, or start anew with --force")

    by_source, by_pair = np.array(build.source_keys, np.uint64), np.array(build.pair_keys, np.uint64)
    given = config.val_data is not None
    held = np.arange(len(by_pair)) >= named if given else _held_out(by_source, config.val_fraction)
    kept = np.ones(len(by_pair), dtype=bool)
    if not config.keep_duplicates:
        order = np.argsort(~held, kind="stable")  # what validates counts as seen first
        kept[:] = False
        kept[order[np.unique(by_pair[order], return_index=True)[1]]] = True
    elif held.any():
        kept &= held | ~np.isin(by_pair, by_pair[held])
    trains = kept & ~held
    if not trains.any():
        raise InputError("no pair is left to train on", "give more pairs, or others to validate on")
    if config.patience and not (kept & held).any():
        raise UsageError("--patience needs pairs to validate on", "hold some out with --val-fraction or --val-data")
    parts = [np.flatnonzero(trains[start:stop]) + start for start, stop in itertools.pairwise([0, *ends])]
    val = np.flatnonzero(kept & held)
    used = [(numbers, source.weight) for numbers, source in zip(parts, sources, strict=True) if len(numbers)]
    return PairSet(
        ids=np.array(build.ids, np.int32),
        starts=np.array(build.starts, np.int64),
        train=tuple(numbers for numbers, _ in used),
        weights=tuple(weight for _, weight in used),
        val=val,
        shown=_look_up(config, spread(val, _SHOWN)),
        fingerprint=fingerprint,
        duplicates=int((~kept).sum()),
        cut_sources=build.cut[0],
        cut_targets=build.cut[1],
        unknown=build.unknown,
    )


class _Builder:
    """Collects the tokens of pairs, a thousand at a time."""

    def __init__(self, config: TextTrainConfig, model: Seq2Seq, on_progress: Progress) -> None:
        self._config, self._model, self._progress = config, model, on_progress
        self._limits = limits(config, model)
        self.ids, self.starts = array("i"), array("q", [0])
        self.source_keys, self.pair_keys = array("Q"), array("Q")
        self.digest = hashlib.sha256()
        self.cut = [0, 0]
        self.unknown = 0
        self._first_unknown = ""

    def add(self, path: str) -> int:
        """Take in the pairs behind a path; returns how many there are by now."""
        pairs = _read(self._config, [path])
        while some := list(itertools.islice(pairs, _AT_ONCE)):
            self._take(some)
            self._progress(len(self.pair_keys), len(self._config.data))
        return len(self.pair_keys)

    def _take(self, pairs: Sequence[Pair]) -> None:
        prefix, (source_limit, target_limit) = self._config.source_prefix, self._limits
        sources, cut_sources = self._model.encode(
            [prefix + pair.source for pair in pairs], targets=False, limit=source_limit
        )
        targets, cut_targets = self._model.encode([pair.target for pair in pairs], targets=True, limit=target_limit)
        self.cut = [self.cut[0] + cut_sources, self.cut[1] + cut_targets]
        unknown = self._model.tokenizer.unk_token_id
        for pair, *sides in zip(pairs, sources, targets, strict=True):
            for ids in sides:
                self.ids.extend(ids)
                self.starts.append(len(self.ids))
                if unknown in ids:
                    self.unknown += ids.count(unknown)
                    self._first_unknown = self._first_unknown or pair.where
            both = f"{pair.source}\0{pair.target}\0".encode()
            self.digest.update(both)
            self.source_keys.append(_key(pair.source.encode()))
            self.pair_keys.append(_key(both))

    def check_unknown(self) -> None:
        if self.unknown > _MOST_UNKNOWN * len(self.ids):
            raise InputError(
                f"{self.unknown:,} of {len(self.ids):,} tokens are unknown to the tokenizer, "
                f"first in {self._first_unknown}",
                "use a model that knows these characters",
            )


def _read(config: TextTrainConfig, paths: Iterable[str]) -> Iterator[Pair]:
    return read_pairs(
        paths, source_field=config.source_field, target_field=config.target_field, errors=config.encoding_errors
    )


def _look_up(config: TextTrainConfig, numbers: np.ndarray) -> tuple[tuple[int, Pair], ...]:
    """Pairs by their numbers, which rise, from a second reading."""
    paths = [source.path for source in parse_sources(config.data)]
    wanted, found = set(numbers.tolist()), []
    for number, pair in enumerate(_read(config, filter(None, [*paths, config.val_data])) if wanted else ()):
        if number in wanted:
            found.append((number, pair))
        if len(found) == len(wanted):
            break
    return tuple(found)


def share(numbers: np.ndarray, weight: float) -> int:
    """How many of the pairs an epoch takes, repeats counted."""
    return max(1, int(weight * len(numbers)))


def spread(numbers: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` of the numbers, one at least where there are any, at even distances."""
    count = min(len(numbers), max(1, most))
    return numbers[np.linspace(0, len(numbers) - 1, num=count).astype(int)] if count else numbers


def limits(config: TextTrainConfig, model: Seq2Seq) -> tuple[int, int]:
    """Most tokens of a source and of a target.

    Raises:
        UsageError: more than the model can see.
    """
    usual = min(USUAL_LENGTH, model.context)
    for flag, limit in (
        ("--max-source-tokens", config.max_source_tokens),
        ("--max-target-tokens", config.max_target_tokens),
    ):
        if (limit or 0) > model.context:
            raise UsageError(f"{flag} {limit} is more than the model can see", f"use {model.context} or less")
    return config.max_source_tokens or usual, config.max_target_tokens or usual


def _key(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _held_out(keys: np.ndarray, fraction: float) -> np.ndarray:
    """(N,) whether a pair validates; with a fraction above 0 and two sources or more, neither side is empty."""
    if not fraction:
        return np.zeros(len(keys), dtype=bool)
    chosen = keys < np.uint64(min(fraction * 2**64, 2**64 - 2049))
    held: np.ndarray = (chosen | (keys == keys.min())) & (keys != keys.max())
    return held


def _filled(rows: Sequence[np.ndarray]) -> Tensor:
    filled = np.full((len(rows), max(map(len, rows))), IGNORE, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return torch.from_numpy(filled)

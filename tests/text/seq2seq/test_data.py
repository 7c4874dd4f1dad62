"""Tokenized pairs: what is kept, what is held out, and in which order they come."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkit.errors import InputError, UsageError
from genkit.text.losses import IGNORE
from genkit.text.seq2seq.batches import Batches, units
from genkit.text.seq2seq.data import PairSet, prepare
from genkit.text.seq2seq.model import Seq2Seq, load_seq2seq
from genkit.text.trainconfig import TextTrainConfig


@pytest.fixture(scope="module")
def t5(seq2seq_model: Callable[[str], Path]) -> Seq2Seq:
    return load_seq2seq(seq2seq_model("t5"))


def _write(path: Path, pairs: Sequence[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in pairs))
    return str(path)


def _texts(pairs: PairSet, model: Seq2Seq, numbers: np.ndarray) -> list[tuple[str, ...]]:
    decode = model.tokenizer.decode
    return [
        tuple(decode(ids, skip_special_tokens=True) for ids in (pairs.source(n), pairs.target(n)))
        for n in numbers.tolist()
    ]


def _prepared(model: Seq2Seq, *data: str, **settings: Any) -> PairSet:
    return prepare(TextTrainConfig(data=data, init_from="t5", **settings), model)


def test_both_sides_end_with_the_end_mark_and_sources_have_the_prefix(t5: Seq2Seq, tmp_path: Path) -> None:
    data = _write(tmp_path / "a.jsonl", [("ab", "c")])
    pairs = _prepared(t5, data, source_prefix="say ")
    letters = t5.tokenizer.convert_ids_to_tokens
    assert letters(pairs.source(0)) == ["\u2581", *"say", "\u2581", "a", "b", "</s>"]
    assert letters(pairs.target(0)) == ["\u2581", "c", "</s>"]
    assert len(pairs.val) == 0  # one source cannot be on both sides


def test_long_sides_are_cut_and_counted(t5: Seq2Seq, tmp_path: Path) -> None:
    data = _write(tmp_path / "a.jsonl", [("abcdefgh", "a"), ("ab", "abcdef"), ("a", "b")])
    config = TextTrainConfig(data=(data,), init_from="t5", max_source_tokens=6, max_target_tokens=4, val_fraction=0.0)
    pairs = prepare(config, t5)
    assert (pairs.cut_sources, pairs.cut_targets) == (1, 1)
    assert t5.tokenizer.convert_ids_to_tokens(pairs.source(0)) == ["\u2581", *"abcd", "</s>"]
    assert t5.tokenizer.convert_ids_to_tokens(pairs.target(1)) == ["\u2581", *"ab", "</s>"]
    assert pairs.warnings(config) == [
        "1 sources are longer than --max-source-tokens 6: the rest is cut off",
        "1 targets are longer than --max-target-tokens 4: the rest is cut off",
    ]


def test_repeated_pairs_are_left_out(t5: Seq2Seq, tmp_path: Path) -> None:
    data = _write(tmp_path / "a.jsonl", [("a", "b"), ("a", "b"), ("a", "c"), ("ab", "")][:3])
    found = _prepared(t5, data, val_fraction=0.0)
    assert found.duplicates == 1
    assert _texts(found, t5, found.train[0]) == [("a", "b"), ("a", "c")]
    kept = _prepared(t5, data, val_fraction=0.0, keep_duplicates=True)
    assert (kept.duplicates, len(kept.train[0])) == (0, 3)


def test_all_pairs_of_a_source_are_on_one_side(t5: Seq2Seq, tmp_path: Path, words: list[str]) -> None:
    data = _write(tmp_path / "a.jsonl", [(word, target) for word in words for target in ("a", "b", "c")])
    found = _prepared(t5, data, val_fraction=0.2)
    trained, held = ({source for source, _ in _texts(found, t5, numbers)} for numbers in (found.train[0], found.val))
    assert not trained & held
    assert len(trained | held) == 200
    assert 20 <= len(held) <= 60
    again = _prepared(t5, _write(tmp_path / "b.jsonl", [(word, "a") for word in reversed(words)]), val_fraction=0.2)
    assert {source for source, _ in _texts(again, t5, again.val)} == held


def test_pairs_given_to_validate_on_do_not_train(t5: Seq2Seq, tmp_path: Path) -> None:
    data = _write(tmp_path / "a.jsonl", [("a", "b"), ("c", "d"), ("e", "f")])
    val = _write(tmp_path / "val.jsonl", [("c", "d"), ("g", "h")])
    for keep in (False, True):
        found = _prepared(t5, data, val_data=val, keep_duplicates=keep)
        assert _texts(found, t5, found.train[0]) == [("a", "b"), ("e", "f")]
        assert _texts(found, t5, found.val) == [("c", "d"), ("g", "h")]
    assert [(pair.source, pair.where) for _, pair in found.shown] == [("c", f"{val}:1"), ("g", f"{val}:2")]
    with pytest.raises(InputError, match="no pair is left to train on"):
        _prepared(t5, val, val_data=val)


def test_unknown_tokens_are_told_and_too_many_refused(t5: Seq2Seq, tmp_path: Path, words: list[str]) -> None:
    few = _write(tmp_path / "a.jsonl", [*((word, word) for word in words), ("\u00e9", "a")])
    found = _prepared(t5, few)
    assert found.unknown == 1
    assert "1 of 2," in found.warnings(TextTrainConfig())[0]
    many = _write(tmp_path / "b.jsonl", [("abc", "abc"), ("\u00e9\u00e8", "a")])
    with pytest.raises(InputError, match=r"2 of 17 tokens are unknown to the tokenizer, first in .*b.jsonl:2"):
        _prepared(t5, many)


def test_patience_needs_pairs_to_validate_on(t5: Seq2Seq, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--patience needs pairs"):
        _prepared(t5, _write(tmp_path / "a.jsonl", [("a", "b")]), patience=1)


def test_lengths_beyond_the_model_are_refused(seq2seq_model: Callable[[str], Path], tmp_path: Path) -> None:
    bart = load_seq2seq(seq2seq_model("bart"))
    data = _write(tmp_path / "a.jsonl", [("a", "b")])
    with pytest.raises(UsageError, match="--max-target-tokens 25 is more than the model can see"):
        _prepared(bart, data, max_target_tokens=25)


def test_a_batch_is_padded_with_what_does_not_count(t5: Seq2Seq, tmp_path: Path) -> None:
    pairs = _prepared(t5, _write(tmp_path / "a.jsonl", [("abc", "a"), ("a", "abc")]), val_fraction=0.0)
    x, y = pairs.padded([0, 1])
    assert x.shape == y.shape == (2, 5)
    assert x[1].tolist()[3:] == y[0].tolist()[3:] == [IGNORE, IGNORE]
    assert x[1].tolist()[:3] == pairs.source(1).tolist()
    assert units(x, y) == 16 == pairs.tokens_per_epoch
    assert x.dtype == torch.int64


def test_an_epoch_takes_every_pair_once(t5: Seq2Seq, pairs_file: Path) -> None:
    pairs = _prepared(t5, str(pairs_file), val_fraction=0.0)
    batches = Batches(pairs, batch_size=8, seed=1)
    epoch = [batches.numbers(step).tolist() for step in range(25)]
    assert Counter(n for row in epoch for n in row) == Counter(range(200))
    later = [batches.numbers(step).tolist() for step in range(25, 50)]
    assert Counter(n for row in later for n in row) == Counter(range(200))
    assert epoch != later


def test_the_order_depends_on_seed_and_step_alone(t5: Seq2Seq, pairs_file: Path) -> None:
    pairs = _prepared(t5, str(pairs_file), val_fraction=0.0)
    forward, other = Batches(pairs, batch_size=7, seed=1), Batches(pairs, batch_size=7, seed=2)
    rows = [forward.numbers(step).tolist() for step in range(90)]
    assert [Batches(pairs, batch_size=7, seed=1).numbers(step).tolist() for step in (89, 3, 40)] == [
        rows[89], rows[3], rows[40],
    ]  # fmt: skip
    assert rows[:9] != [other.numbers(step).tolist() for step in range(9)]


def test_batches_hold_pairs_of_like_length(t5: Seq2Seq, pairs_file: Path) -> None:
    pairs = _prepared(t5, str(pairs_file), val_fraction=0.0)
    batches = Batches(pairs, batch_size=10, seed=0)
    spans = [np.ptp(pairs.lengths(batches.numbers(step))[0]) for step in range(20)]
    assert max(spans) <= 1  # shuffled pairs of 2 to 5 letters would span 3
    firsts = [int(pairs.lengths(batches.numbers(step))[0].min()) for step in range(20)]
    assert firsts != sorted(firsts)


def test_more_pairs_a_batch_than_there_are(t5: Seq2Seq, tmp_path: Path) -> None:
    pairs = _prepared(t5, _write(tmp_path / "a.jsonl", [("a", "b"), ("c", "d"), ("e", "f")]), val_fraction=0.0)
    batches = Batches(pairs, batch_size=5, seed=0)
    drawn = Counter(n for step in range(3) for n in batches.numbers(step).tolist())
    assert drawn == Counter({0: 5, 1: 5, 2: 5})


def test_weights_say_how_often_an_epoch_takes_a_source(t5: Seq2Seq, tmp_path: Path) -> None:
    often = _write(tmp_path / "a.jsonl", [("a", "b"), ("c", "d")])
    seldom = _write(tmp_path / "b.jsonl", [(word, "a") for word in ("aa", "ab", "ac", "ad")])
    pairs = _prepared(t5, f"{often}:3", f"{seldom}:0.5", val_fraction=0.0)
    assert pairs.pairs_per_epoch == 3 * 2 + 2
    batches = Batches(pairs, batch_size=4, seed=0)
    drawn = Counter(n for step in range(4) for n in batches.numbers(step).tolist())  # two epochs
    assert drawn == Counter({0: 6, 1: 6, 2: 1, 3: 1, 4: 1, 5: 1})

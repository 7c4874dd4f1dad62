"""Documents that were there before are found by their whole text, in little memory."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from genkit.text import duplicates
from genkit.text.documents import Piece
from genkit.text.duplicates import Register


def register(documents: Sequence[str], size: int = 100) -> Register:
    known = Register()
    for text in documents:
        stretches = [text[i : i + size] for i in range(0, len(text), size)]
        for i, stretch in enumerate(stretches):
            known.add(Piece(stretch, i == 0, i == len(stretches) - 1, 0))
    return known


def test_all_but_the_first_are_repeats() -> None:
    assert register(["a", "b", "a", "c", "a", "b"]).repeats().tolist() == [False, False, True, False, True, True]
    assert register([]).repeats().tolist() == []
    assert register(["a"]).repeats().tolist() == [False]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_whole_document_decides(size: int) -> None:
    documents = ["the same beginning, one", "the same beginning, two", "the same beginning, one", "the same"]
    assert register(documents, size).repeats().tolist() == [False, False, True, False]


def test_those_elsewhere_are_repeats_too() -> None:
    elsewhere = register(["b", "x", "b"])
    assert register(["a", "b", "a", "b"]).repeats(elsewhere).tolist() == [False, True, True, True]
    assert register(["a", "c"]).repeats(elsewhere).tolist() == [False, False]
    assert register(["a", "a"]).repeats(Register()).tolist() == [False, True]


def test_the_key_is_the_hash_of_the_first_piece() -> None:
    known = register(["abc", "x" * 7, "d"], size=5)
    expected = [hashlib.blake2b(text, digest_size=8).digest() for text in (b"abc", b"xxxxx", b"d")]
    assert [known.key(i) for i in range(3)] == [int.from_bytes(digest) for digest in expected]


def test_forgetting_goes_back() -> None:
    known = register(["a", "b" * 9, "a", "c" * 9], size=5)
    known.forget(2)
    assert len(known) == 2
    known.add(Piece("d", True, True, 0))
    assert known.repeats().tolist() == [False, False, False]
    assert known.key(2) == register(["d"]).key(0)


def test_against_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_AT_ONCE", 7)
    rng = random.Random(0)
    documents = [str(rng.randrange(150)) for _ in range(400)]
    others = [str(rng.randrange(300)) for _ in range(30)]
    seen, expected = set(others), []
    for text in documents:
        expected.append(text in seen)
        seen.add(text)
    assert register(documents).repeats(register(others)).tolist() == expected


def test_memory() -> None:
    tracemalloc.start()
    known = Register()
    for i in range(200_000):
        known.add(Piece(str(i // 2), True, True, 0))
    kept, _ = tracemalloc.get_traced_memory()
    repeated = known.repeats()
    tracemalloc.stop()
    assert np.array_equal(repeated, np.arange(200_000) % 2 == 1)
    assert kept < 200_000 * 10

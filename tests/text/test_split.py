"""The split: deterministic, by content, without leaks, also when sources are repeated."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from genkit.text.documents import Piece
from genkit.text.duplicates import Register
from genkit.text.split import MANY, Split


def pieces(documents: Iterable[str], size: int = 1 << 18) -> list[Piece]:
    result = []
    for text in documents:
        stretches = [text[i : i + size] for i in range(0, len(text), size)]
        result += [Piece(t, i == 0, i == len(stretches) - 1, 0) for i, t in enumerate(stretches)]
    return result


def split(documents: Iterable[str], fraction: float, size: int = 1 << 18) -> tuple[list[str], list[str]]:
    """Training and validation documents."""
    both = Split(fraction)
    stream = pieces(documents, size)
    register = Register()
    for piece in stream:
        both.survey(piece, register.add(piece))
    sides: tuple[list[str], list[str]] = ([], [])
    open_text = ["", ""]
    number = -1
    for piece in stream:
        number += piece.first
        for part in both.divide(piece, register.key(number)):
            assert part.text
            open_text[part.held_out] += part.text
            if part.last:
                sides[part.held_out].append(open_text[part.held_out])
                open_text[part.held_out] = ""
    assert open_text == ["", ""]
    return sides


def stories(count: int) -> list[str]:
    return [f"story number {i}, " + "long " * (i % 7) for i in range(count)]


def test_few_documents_give_their_last_part() -> None:
    assert split(["0123456789"], 0.1) == (["012345678"], ["9"])
    assert split(["0123456789"], 0.25) == (["0123456"], ["789"])
    assert split(["abcd", "efgh", "ij"], 0.3) == (["abcd", "efg"], ["h", "ij"])
    assert split(["abcd", "efgh"], 0.5) == (["abcd"], ["efgh"])


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_pieces_do_not_matter(size: int) -> None:
    documents = ["abcd", "efghij", "kl"]
    assert split(documents, 0.5, size) == split(documents, 0.5)
    train, val = split(stories(100), 0.2, 20 + size)
    assert sorted(train + val) == sorted(stories(100))


def test_documents_that_begin_alike_stay_together() -> None:
    documents = [f"{i % 50:02d} the same beginning{' and another end' * (i // 50)}" for i in range(100)]
    train, val = split(documents, 0.2, size=10)
    assert not {text[:2] for text in train} & {text[:2] for text in val}


def test_few_documents_that_are_repeated_do_not_leak() -> None:
    train, val = split(["abcd", "efgh", "abcd", "abcd", "efgh"], 0.25)
    assert train == ["abcd", "ef", "abcd", "abcd", "ef"]
    assert val == ["gh"]
    assert split(["same"] * 50, 0.25) == (["sam"] * 50, ["e"])


def test_nothing_is_held_out_on_request() -> None:
    for documents in (["abc", "def"], stories(50)):
        assert split(documents, 0.0) == (documents, [])


def test_one_character_trains() -> None:
    assert split(["a"], 0.99) == (["a"], [])
    assert split(["ab"], 0.99) == (["a"], ["b"])


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3])
def test_many_documents_are_whole_and_on_one_side(fraction: float) -> None:
    documents = stories(4000)
    train, val = split(documents, fraction)
    assert sorted(train + val) == sorted(documents)
    deviation = (4000 * fraction * (1 - fraction)) ** 0.5
    assert abs(len(val) - 4000 * fraction) < 4 * deviation


def test_the_side_depends_on_the_text_alone() -> None:
    documents = stories(500)
    _, val = split(documents, 0.1)
    random.Random(0).shuffle(documents)
    assert set(split(documents, 0.1)[1]) == set(val)
    assert set(split(documents[:250], 0.1)[1]) == set(val) & set(documents[:250])


def test_many_documents_that_are_repeated_do_not_leak() -> None:
    documents = stories(200)
    weighted = documents + documents[:100] * 3 + documents[50:]
    random.Random(1).shuffle(weighted)
    train, val = split(weighted, 0.2)
    assert len(val) == len(set(val)) == 200 - len(set(train))
    assert not set(train) & set(val)
    assert sorted(train) == sorted(d for d in weighted if d not in set(val))


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty(fraction: float) -> None:
    train, val = split(stories(MANY), fraction)
    assert min(len(train), len(val)) == 1


def test_different_documents_are_counted() -> None:
    train, val = split(stories(MANY - 1) * 2, 0.05)
    assert len(train) == 2 * (MANY - 1)  # each in part, twice: the tail split
    assert "".join(val) == "".join(stories(MANY - 1))[-len("".join(val)) :]

"""Cuts never change a token."""

from __future__ import annotations

import itertools
import random

import pytest

from genkit.text.cutting import cut_point
from genkit.text.tokenizer import Tokenizer, train_bpe
from genkit.text.words import word_bytes

HOSTILE = [
    *" \n\r\t.,!'\"sStTré日1-",
    "\u00a0",
    "\u3000",
    "\x1c",
    "\x85",
    "\u2028",
    "\u200b",
    "\u0301",
    "\0",
    "😀",
    "'re",
    "  ",
    "\n\n",
]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    rng = random.Random(2)
    return train_bpe(["".join(rng.choices(HOSTILE, k=100_000))], 2000)  # merges over every kind of boundary


def ids(tokenizer: Tokenizer, pieces: list[str]) -> list[int]:
    return [token for piece in tokenizer.encode_batch(pieces) for token in piece]


def words(texts: list[str]) -> tuple[list[str], list[int]]:
    """The pieces of all texts, and for each text the number of pieces up to its end."""
    data, stops, counts = word_bytes(texts)
    assert data == "".join(texts).encode()
    return [data[a:b].decode() for a, b in itertools.pairwise([0, *stops.tolist()])], counts.tolist()


def test_words_by_hand() -> None:
    found, ends = words(["One, two.\n\nThree  four\n", "", "\n five"])
    assert found == ["One", ",", " two", ".\n\n", "Three", "  four\n", "\n five"]
    assert ends == [6, 6, 7]
    assert words([]) == ([], [])
    assert words(["", ""]) == ([], [0, 0])


def test_words_have_the_tokens_of_the_whole(bpe: Tokenizer) -> None:
    rng = random.Random(3)
    for _ in range(5000):
        text = "".join(rng.choices(HOSTILE, k=rng.randrange(1, 16)))
        found, ends = words([text])
        assert "".join(found) == text
        assert ends == [len(found)]
        assert ids(bpe, found) == ids(bpe, [text]), (text, found)


def test_words_keep_texts_apart() -> None:
    rng = random.Random(4)
    texts = ["".join(rng.choices(HOSTILE, k=rng.randrange(8))) for _ in range(300)]
    found, ends = words(texts)
    assert ["".join(found[a:b]) for a, b in zip([0, *ends], ends, strict=False)] == texts
    assert all(found)


@pytest.mark.parametrize(
    ("text", "limit", "place"),
    [
        ("ab cd ef gh", 8, 5),  # before a space
        ("ab\ncd ef gh", 8, 5),  # a line end in the first half is too early
        ("ab cd\nef gh", 8, 6),  # after a line end
        ("ab cd\n\n f gh", 8, 8),  # not inside white space, nor after it: at the limit
        ("abcdefghijk", 8, 8),
        ("           ", 8, 8),
    ],
)
def test_cut_points_by_hand(text: str, limit: int, place: int) -> None:
    assert cut_point(text, 0, limit) == place
    assert cut_point("xxx" + text, 3, limit) == place + 3
    assert cut_point(text[: limit + 1], 0, limit) == place  # it looks no further


def test_cut_points_have_the_tokens_of_the_whole(bpe: Tokenizer) -> None:
    rng = random.Random(5)
    exact = 0
    for _ in range(5000):
        text = "".join(rng.choices(HOSTILE, k=24))
        place = cut_point(text, 0, 16)
        assert 8 <= place <= 16
        if place < 16:
            exact += 1
            assert ids(bpe, [text[:place], text[place:]]) == ids(bpe, [text]), (text, place)
    assert exact > 1000

"""Lists of seeds, latents and classes."""

from __future__ import annotations

import pytest

from genkit.errors import UsageError
from genkit.image.lists import Rows, parse_classes, parse_stops


def test_stops_are_seeds_and_rows_of_files() -> None:
    assert parse_stops("0-1, me.npz ,a:b.NPZ:3,/x/c.npz:0-2,9", "--latent") == [
        0, 1, Rows("me.npz"), Rows("a:b.NPZ", 3, 3), Rows("/x/c.npz", 0, 2), 9,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("me.npz:x", "--latent me.npz:x names no rows of the file"),
        ("me.npz:3-1", "--latent me.npz:3-1 names no rows"),
        ("me.npz:", "--latent me.npz: names no rows"),
        ("me.npz:-1", "names no rows"),
        ("me.png", "--latent 'me.png' is not a list of seeds or .npz files"),
        ("", "--latent '' is not a list of seeds or .npz files"),
        ("1,,2", "--latent '1,,2' is not a list of seeds or .npz files"),
        ("0-999999,7", "empty or too long range"),
    ],
)
def test_lists_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_stops(text, "--latent")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cat=8,dog=1", [("cat", 8), ("dog", 1)]),
        ("cat, dog", [("cat", None), ("dog", None)]),
        ("a=b", [("a=b", None)]),
        ("a=b=2", [("a=b", 2)]),
        ("7=3", [("7", 3)]),
        ("=3", [("=3", None)]),
    ],
)
def test_classes(text: str, found: list[tuple[str, int | None]]) -> None:
    assert parse_classes(text) == found


@pytest.mark.parametrize("text", ["", "cat,", "cat=0", "cat=1000001", ",dog=1"])
def test_classes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not a list of classes"):
        parse_classes(text)


def test_numbers_for_all_classes_or_for_none() -> None:
    with pytest.raises(UsageError, match="--class 'cat=8,dog' has numbers for some classes only"):
        parse_classes("cat=8,dog")

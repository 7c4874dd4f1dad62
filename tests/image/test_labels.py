"""Names of classes, and how many pictures each gets."""

from __future__ import annotations

import pytest

from genkit.errors import UsageError
from genkit.image.labels import by_seed, label_of, shared_out

CLASSES = ("apple", "cherry", "10", "pear")


@pytest.mark.parametrize(("name", "label"), [("apple", 0), ("pear", 3), ("3", 3), (1, 1), ("10", 2)])
def test_a_class_has_a_name_or_a_number(name: str | int, label: int) -> None:
    assert label_of(name, CLASSES) == label


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("appel", r"the model has no class 'appel' \(did you mean 'apple'\?\)"),
        ("4", r"the model has no class '4' \(there is 10, apple, cherry, pear\)"),
        (-1, "the model has no class -1"),
        ("", "the model has no class ''"),
    ],
)
def test_unknown_classes(name: str | int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        label_of(name, CLASSES)


def test_many_classes_are_not_listed() -> None:
    with pytest.raises(UsageError, match=r"no class 'x' \(it has 100 classes, class 0 to class 99\)"):
        label_of("x", [f"class {i}" for i in range(100)])


def test_a_model_without_classes() -> None:
    with pytest.raises(UsageError, match="class 'cat': the model has no classes"):
        label_of("cat", ())
    assert by_seed(5, ()) is None


def test_seeds_take_the_classes_in_turn() -> None:
    assert [by_seed(seed, CLASSES) for seed in (0, 3, 4, 2**63 - 1)] == [0, 3, 0, 3]


@pytest.mark.parametrize(
    ("asked", "n", "labels"),
    [
        ([(2, 3), (0, 1)], 4, [2, 2, 2, 0]),
        ([(2, None), (0, None)], 5, [2, 2, 2, 0, 0]),
        ([(1, None), (0, None), (2, None)], 2, [1, 0]),
        ([(1, 1), (0, 1), (1, 1)], 3, [1, 0, 1]),
    ],
)
def test_shares(asked: list[tuple[int, int | None]], n: int, labels: list[int]) -> None:
    assert shared_out(asked, n) == labels


def test_numbers_that_do_not_agree() -> None:
    with pytest.raises(UsageError, match="--class asks for 16 images, and 10 are to be drawn"):
        shared_out([(0, 8), (1, 8)], 10)

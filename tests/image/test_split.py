"""Sub-folders become classes where they are some, and the held-out images are the same for every run."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from genkit.errors import InputError
from genkit.image.split import classes_of, folders_of, held_out_of


def test_the_first_level_counts_and_what_all_have_in_common_does_not() -> None:
    assert folders_of(["a/x.png", "b/deep/y.png", "z.png"]) == ["a", "b", None]
    assert folders_of(["set/a/x.png", "set/b/y.png"]) == ["a", "b"]
    assert folders_of(["set/1/a/x.png", "set/1/y.png"]) == ["a", None]
    assert folders_of(["only/x.png", "only/y.png"]) == [None, None]
    assert folders_of(["/abs/x.png", "abs/y.png"]) == [None, None]
    assert folders_of([]) == []


TWO = ["b"] * 5 + ["a"] * 7


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        (TWO, None),
        ([None] * 9, "no sub-folders"),
        ([*TWO, None], "1 image lies outside of sub-folders"),
        ([*TWO, None, None], "2 images lie outside of sub-folders"),
        (["a"] * 9, "one sub-folder only"),
        ([*TWO, *["c"] * 4], "sub-folder 'c' has 4 images, fewer than 5"),
        (["train"] * 9 + ["Test"] * 9, "Test and train are parts of a split: name one with --data"),
        ([str(i) for i in range(10_001)], "10,001 sub-folders are more than 10,000"),
    ],
)
def test_when_folders_are_classes(folders: list[str | None], reason: str | None) -> None:
    expected = (("a", "b"), "") if reason is None else ((), reason)
    assert classes_of(folders, "auto") == expected
    assert classes_of(folders, "none") == ((), "--labels none")


def test_labels_that_are_asked_for_are_given_or_refused() -> None:
    assert classes_of(["a", "b"], "folders") == (("a", "b"), "")
    assert classes_of(["train", "test"], "folders") == (("test", "train"), "")
    for folders in (["a"], ["a", "b", None], [None]):
        with pytest.raises(InputError, match="--labels folders: "):
            classes_of(folders, "folders")


@pytest.mark.parametrize(("n", "held"), [(399, 0), (400, 20), (1000, 50), (20_000, 1000), (100_000, 1000)])
def test_one_in_twenty_is_held_out_and_a_thousand_at_most(n: int, held: int) -> None:
    assert held_out_of([None] * n).sum() == held


def test_which_ones_are_held_out_goes_by_places_alone_and_over_the_whole_set() -> None:
    held = held_out_of([None] * 4000)
    assert np.array_equal(held, held_out_of([None] * 4000))
    quarters = held.reshape(4, -1).sum(1)
    assert quarters.sum() == 200
    assert quarters.min() > 30


def test_each_class_holds_out_the_same_share_and_a_small_one_nothing() -> None:
    folders: list[str | None] = ["a"] * 1000 + ["b"] * 400 + ["few"] * 19
    held = held_out_of(folders)
    assert Counter(np.array(folders)[held].tolist()) == {"a": 50, "b": 20}

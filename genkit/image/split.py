"""Which class an image is of, and which images are kept out of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from genkit.errors import InputError
from genkit.image.modelconfig import MAX_CLASSES

FEWEST_OF_A_CLASS = 5  # below it a folder is a corner of a collection, not a class to draw from
SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
HELD_OUT, MOST_HELD_OUT, FEWEST_IMAGES = 0.05, 1000, 400


def folders_of(names: Sequence[str]) -> list[str | None]:
    """The first-level sub-folder of each image, None at the root.

    Folders that all images have in common do not count: a zip of one folder of class
    folders is read as the folder itself.
    """
    paths = [name.strip("/").split("/")[:-1] for name in names]
    common = 0
    while paths and all(path[common : common + 1] == paths[0][common : common + 1] != [] for path in paths):
        common += 1
    return [path[common] if len(path) > common else None for path in paths]


def count_folders(folders: Iterable[str | None]) -> dict[str, int]:
    """Images in each sub-folder, by name."""
    return dict(sorted(Counter(folder for folder in folders if folder is not None).items()))


def classes_of(folders: Sequence[str | None], labels: str) -> tuple[tuple[str, ...], str]:
    """The classes that sub-folders name, sorted, or why there are none.

    Args:
        folders: of the training images.
        labels: `none`; `folders`, which must do; or `auto`, where folders are classes if
            there are two or more, they hold all of the images, `FEWEST_OF_A_CLASS` each
            at least, and they are not named like the parts of a split.

    Raises:
        InputError: `folders`, and an image lies in none, or there are not 2 to 10,000.
    """
    if labels == "none":
        return (), "--labels none"
    sizes = count_folders(folders)
    loose = len(folders) - sum(sizes.values())
    if not sizes:
        reason = "no sub-folders"
    elif loose:
        reason = f"{loose:,} image{'s lie' if loose > 1 else ' lies'} outside of sub-folders"
    elif len(sizes) < 2:
        reason = "one sub-folder only"
    elif len(sizes) > MAX_CLASSES:
        reason = f"{len(sizes):,} sub-folders are more than {MAX_CLASSES:,}"
    elif labels == "folders":
        return tuple(sizes), ""
    elif set(map(str.lower, sizes)) <= SPLITS:
        reason = f"{' and '.join(sizes)} are parts of a split: name one with --data"
    elif min(sizes.values()) < FEWEST_OF_A_CLASS:
        small, n = min(sizes.items(), key=lambda item: item[1])
        reason = f"sub-folder {small!r} has {n} image{'s' * (n > 1)}, fewer than {FEWEST_OF_A_CLASS}"
    else:
        return tuple(sizes), ""
    if labels == "folders":
        raise InputError(f"--labels folders: {reason}", "put each image into the sub-folder of its class")
    return (), reason


def held_out_of(folders: Sequence[str | None]) -> NDArray[np.bool_]:
    """Which of the images, (N,), no training step ever sees.

    One in twenty, 1000 at most, and none of fewer than 400: the same share of each
    sub-folder, rounded down, so that small ones lose none. Which ones depends on their
    places alone, by a hash, and not on a seed: all runs on the same images are judged
    by the same ones.
    """
    n = len(folders)
    held = np.zeros(n, dtype=bool)
    if n < FEWEST_IMAGES:
        return held
    share = min(HELD_OUT, MOST_HELD_OUT / n)
    _, group = np.unique([folder or "" for folder in folders], return_inverse=True)
    order = np.lexsort((_hash(np.arange(n, dtype=np.uint64)), group))  # by folder, then by hash
    for members in np.split(order, np.cumsum(np.bincount(group))[:-1]):
        held[members[: int(share * len(members))]] = True
    return held


def _hash(places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's mixing of 64-bit numbers (Steele et al. 2014)."""
    z = (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

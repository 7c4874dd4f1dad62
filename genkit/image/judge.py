"""How good a generator is, measured in the same way throughout a run: the same real images, the same latents."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from genkit.image.alarms import CopyDetector, Rows, distinct, outlines
from genkit.image.engines.torch import draw
from genkit.image.features import FeatureNet, available
from genkit.image.metrics import diversity, kernel_distance, sliced_wasserstein, thumbnails
from genkit.image.models.networks import Generator
from genkit.image.noise import JUDGED, philox
from genkit.image.store import ImageStore
from genkit.runtime.manager import Runtime

Pixels = NDArray[np.uint8]

IMAGES, FEWEST = 500, 100  # of a measurement
_TRAINING = 20_000  # training images at most that samples are compared with
_LEAST_REAL = 50  # held-out images that are enough to judge by
_BATCH = 64
_SHARE, _TIMES = 0.05, 10  # of the time of a run, for so many measurements


class Judge:
    """Measures generators against real images: held-out ones, or where there are none those of the training.

    Args:
        images: how many real images and samples are looked at, at most.
        flip: whether the generator learns mirrored images too.

    Attributes:
        metric: which number is lower for a better generator: "kd" by the features of
            EfficientNet-Lite0 where its package is installed, else "swd".
        floor: that number for real images against other real ones.
    """

    def __init__(self, store: ImageStore, runtime: Runtime, *, images: int, flip: bool) -> None:
        self._runtime = runtime
        held_out = store.held_out
        judged_by = store if held_out is None or len(held_out) < _LEAST_REAL else held_out
        self._real = _some(judged_by.images, images)  # (M, H, W, C)
        self._n = min(images, max(_BATCH, len(self._real)))
        self._labels = None
        if store.labels is not None:
            self._labels = store.labels[philox(0, JUDGED, 2).integers(len(store.labels), size=self._n)]
        self._features = FeatureNet(runtime.device) if available() else None
        first, second = self._real[::2], self._real[1::2]  # in their order, the halves may be of other classes
        if self._features is None:
            self.metric, self.floor = "swd", sliced_wasserstein(first, second)
        else:
            self._seen = self._features(self._real)  # (M, 1280)
            self.metric, self.floor = "kd", 0.0
            if len(second) > 1:
                self.floor = max(0.0, kernel_distance(self._seen[::2], self._seen[1::2]))

        self._copies = CopyDetector(_outlines_of(store.images, flip=flip))
        self._rows = outlines(thumbnails(self._real))
        self._diversity = diversity(self._real)

    def measure(self, ready: Generator) -> dict[str, float]:
        """The numbers of a generator in eval mode.

        Returns:
            `kd`, where there are features, and `swd`; `diversity`, as a share of the
            data's; `distinct` and `copies`, as in `genkit.image.alarms`.
        """
        pixels = self._draw(ready)
        rows = outlines(thumbnails(pixels))
        found = {} if self._features is None else {"kd": kernel_distance(self._features(pixels), self._seen)}
        return found | {
            "swd": sliced_wasserstein(pixels, self._real),
            "diversity": diversity(pixels) / self._diversity if self._diversity > 0 else 1.0,
            "distinct": distinct(rows, self._rows),
            "copies": self._copies.share(rows),
        }

    def _draw(self, ready: Generator) -> Pixels:
        """The images (N, H, W, C) of fixed latents, of classes as frequent as in the data."""
        z = philox(0, JUDGED, 1).standard_normal((self._n, ready.config.nz), dtype=np.float32)
        parts = []
        for low in range(0, self._n, _BATCH):
            labels = None if self._labels is None else self._labels[low : low + _BATCH]
            parts.append(draw(ready, z[low : low + _BATCH], labels, self._runtime))
        return np.concatenate(parts)


def affordable_images(store: ImageStore, runtime: Runtime, seconds: float | None, *, tries: int = 1) -> int:
    """How many images a measurement may take so that ten of them are a twentieth of a run of so many seconds.

    Args:
        tries: times that each draws and compares them.
    """
    if seconds is None or not available():
        return IMAGES
    features, few = FeatureNet(runtime.device), _some(store.images, 32)
    features(few[:1])  # warms up
    before = time.perf_counter()
    features(few)
    each = (time.perf_counter() - before) / len(few)
    return int(min(IMAGES, max(FEWEST, _SHARE * seconds / _TIMES / tries / each)))


def _outlines_of(images: Pixels, *, flip: bool) -> Rows:
    """Outlines of at most `_TRAINING` images and, with `flip`, of their mirror images; few of them are in memory."""
    places = _some_places(len(images), _TRAINING)
    seen, mirrored = [], []
    for low in range(0, len(places), _BATCH):
        small = thumbnails(images[places[low : low + _BATCH]])
        seen.append(outlines(small))
        if flip:
            mirrored.append(outlines(small[:, :, ::-1]))
    return np.concatenate(seen + mirrored)


def _some(images: Pixels, n: int) -> Pixels:
    """At most `n` of the images in their order, the same ones each time."""
    return images[_some_places(len(images), n)]


def _some_places(count: int, n: int) -> NDArray[np.int64]:
    return np.sort(philox(0, JUDGED).permutation(count)[:n])

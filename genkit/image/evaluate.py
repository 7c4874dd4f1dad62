"""How far what a generator draws is from real images, and how far real images are from one another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genkit import library
from genkit.errors import InputError
from genkit.files import read_json
from genkit.image import features, inception
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare
from genkit.image.engines import ImageEvent
from genkit.image.evalconfig import ImageEvalConfig
from genkit.image.ingest import STORE
from genkit.image.metrics import (
    diversity,
    frechet_distance,
    kernel_distance,
    nearest_distance,
    precision_recall,
    sliced_wasserstein,
    thumbnails,
)
from genkit.image.modelconfig import ModelConfig, read_model_config
from genkit.image.noise import JUDGED, philox
from genkit.runtime.manager import Runtime, memory_guard

Pixels = NDArray[np.uint8]
Progress = Callable[[float, str], None]

FEWEST = 8  # images of the data: two halves, each with its third-nearest neighbours
_CHUNK = 1024


class Draw(Protocol):
    """`ImagePipeline.draw`, or whatever else makes images of seeds and classes."""

    def __call__(self, seeds: Iterable[int], *, labels: Iterable[str | int] | None = None) -> Iterable[ImageEvent]: ...


class Net(Protocol):
    """Images (N, H, W, C) to features (N, D)."""

    def __call__(self, pixels: Pixels, on_progress: Callable[[int], None]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Measured:
    """A figure of the model, and the same of the data.

    Attributes:
        model: the samples beside the data.
        data: half of the data beside the other half: what a perfect model would come to.
    """

    model: float
    data: float


@dataclass(frozen=True)
class ImageEvaluation:
    """What a model's images are like.

    Attributes:
        metrics: by name; `fd_efflite0` to `recall_efflite0`, and `fid` to `recall_inception`,
            where what they need is there; `swd`, `diversity` and `nearest` always.
        samples: images in each of the sets that are compared.
        images: of the data, in all.
        labels: "data" if the samples have the classes of the images that they are compared
            with, "turn" if they have all classes in turn, None for a model without.
        bad: (name, reason) of each file that could not be read.
    """

    metrics: dict[str, Measured]
    samples: int
    images: int
    size: int
    channels: int
    fit: str
    labels: str | None
    bad: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Data:
    """Real images as the model would draw them.

    Attributes:
        images: all of them, uint8 (N, S, S, C).
        labels: class of each by name, or None.
        chosen, others: places of the images that are compared with, and of as many others.
    """

    images: Pixels
    labels: Sequence[str] | None
    chosen: NDArray[np.int64]
    others: NDArray[np.int64]


@dataclass
class _Steps:
    """Turns what is done of one step after the other into a share of all of them."""

    report: Progress
    total: float
    done: float = 0.0
    _start: float = field(default=0.0, repr=False)

    def step(self, name: str, cost: float, items: int) -> Callable[[int], None]:
        """Of a step that costs so much: what to call with the number of its items that are done."""
        self.done, start = self.done + cost, self.done
        return lambda n: self.report((start + cost * n / items) / self.total, f"{name} {n:,} of {items:,}")


def evaluate_images(
    config: ImageEvalConfig,
    folder: Path,
    draw: Draw,
    runtime: Runtime,
    on_progress: Progress = lambda fraction, text: None,
) -> ImageEvaluation:
    """Compare what the model in `folder` draws with the images in `config.data`.

    Both sides are pixels in memory, never JPEG: the data decoded as for training, to the
    model's size. Of the data, as many images as are drawn are compared with, and as many
    others of it give the floor.

    Args:
        draw: makes the model's images.
        runtime: where features are computed.
        on_progress: called with the share that is done, and what is being done.

    Raises:
        InputError: model, data or the Inception file refused, or too few images.
        ResourceError: the memory does not suffice.
    """
    shape = read_model_config(read_json(folder / library.CONFIG))
    path = Path(config.inception) if config.inception is not None else inception.find()
    if config.inception is None and not inception.available():
        path = None
    if path is not None:
        inception.check(path)  # what does not suit shows now, not after the images are drawn
    fit = config.fit or _fit_of(folder)
    with tempfile.TemporaryDirectory(prefix="genkit-") as place, memory_guard("lower --n, or use --device cpu"):
        data, bad = _real(config, shape, fit, Path(place), on_progress)
        n = len(data.chosen)
        nets: dict[str, Callable[[], Net]] = {}
        if features.available():
            nets["efflite0"] = lambda: features.FeatureNet(runtime.device)
        if path is not None:
            nets["inception"] = lambda: inception.InceptionNet(path, runtime.device)
        steps = _Steps(on_progress, total=n * (1 + 3 * len(nets)))
        labels = _labels(data, shape.classes)
        drawn = np.empty((n, shape.size, shape.size, shape.channels), np.uint8)
        report = steps.step("drawing", n, n)
        for event in draw(range(config.seed, config.seed + n), labels=labels):
            drawn[event.index] = event.pixels
            report(event.index + 1)
        sets = drawn, data.images[data.chosen], data.images[data.others]
        metrics: dict[str, Measured] = {}
        for name, make in nets.items():
            metrics |= _by_features(name, make(), sets, steps)
        metrics |= _by_pixels(sets, data, config.seed)
    return ImageEvaluation(
        metrics=metrics,
        samples=n,
        images=len(data.images),
        size=shape.size,
        channels=shape.channels,
        fit=fit,
        labels=None if not shape.classes else "turn" if labels is None else "data",
        bad=bad,
    )


def _fit_of(folder: Path) -> str:
    """How the images that the model learned from became square, as far as it is known."""
    if not (folder / library.RECORD).is_file():
        return "crop"
    trained = read_json(folder / library.RECORD).get("config")
    fit = trained.get("fit") if isinstance(trained, dict) else None
    return fit if fit in ("crop", "pad", "stretch") else "crop"


def _real(
    config: ImageEvalConfig, shape: ModelConfig, fit: str, place: Path, on_progress: Progress
) -> tuple[_Data, tuple[tuple[str, str], ...]]:
    """Decode the data, all of it, into the folder `place`, and choose what is compared with."""
    how = GANTrainConfig(
        data=config.data,
        size=shape.size,
        channels=shape.channels,
        fit=fit,
        labels="auto" if shape.classes else "none",
        on_bad_image="skip",
    )
    store = prepare(how, place, on_progress=lambda done, total: on_progress(0, f"reading {done:,} of {total:,}"))
    report = store.report
    count = report.count + report.held_out
    if count < FEWEST:
        raise InputError(f"{count} images in {config.data} are too few to compare with", f"give {FEWEST} or more")
    images = np.memmap(place / STORE, np.uint8, "r", shape=(count, shape.size, shape.size, shape.channels))
    order = philox(config.seed, JUDGED).permutation(count)
    n = min(config.n, count // 2)
    labels = None
    if store.labels is not None:
        parts = [part.labels for part in (store, store.held_out) if part is not None and part.labels is not None]
        labels = [report.classes[label] for label in np.concatenate(parts)]
    return _Data(images, labels, np.sort(order[:n]), np.sort(order[n : 2 * n])), report.bad


def _labels(data: _Data, classes: Sequence[str]) -> list[str] | None:
    """The classes of the images that are compared with, if the model has them."""
    if data.labels is None or not set(data.labels) <= set(classes):
        return None
    return [data.labels[place] for place in data.chosen]


def _by_features(name: str, net: Net, sets: tuple[Pixels, Pixels, Pixels], steps: _Steps) -> dict[str, Measured]:
    """Distances between the features of samples, of the data, and of as much other data."""
    fake, real, other = (
        net(pixels, steps.step(f"{name} features of {what},", len(pixels), len(pixels)))
        for pixels, what in zip(sets, ("samples", "data", "other data"), strict=True)
    )
    frechet, kernel = ("fid", "kid") if name == "inception" else (f"fd_{name}", f"kd_{name}")
    precision, recall = zip(precision_recall(real, fake), precision_recall(real, other), strict=True)
    return {
        frechet: Measured(frechet_distance(fake, real), frechet_distance(other, real)),
        kernel: Measured(kernel_distance(fake, real), kernel_distance(other, real)),
        f"precision_{name}": Measured(*precision),
        f"recall_{name}": Measured(*recall),
    }


def _by_pixels(sets: tuple[Pixels, Pixels, Pixels], data: _Data, seed: int) -> dict[str, Measured]:
    """What needs no network."""
    fake, real, other = sets
    known = _bytes(data.images)
    nearest = nearest_distance(_bytes(fake), known), nearest_distance(known[data.chosen], known, own=data.chosen)
    scale = 255 * np.sqrt(known[0].size)  # to the root mean square difference of values from 0 to 1
    return {
        "swd": Measured(sliced_wasserstein(fake, real, seed), sliced_wasserstein(other, real, seed)),
        "diversity": Measured(diversity(fake), diversity(real)),
        "nearest": Measured(*(float(np.median(distances) / scale) for distances in nearest)),
    }


def _bytes(pixels: Pixels) -> Pixels:
    """Thumbnails that take little memory, of all images of a set."""
    parts = (pixels[low : low + _CHUNK] for low in range(0, len(pixels), _CHUNK))
    return np.concatenate([np.rint(255 * thumbnails(part)).astype(np.uint8) for part in parts])

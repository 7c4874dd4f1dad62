"""What the benchmarks of `genkit train-gan` share: data split off for judging, runs, distances."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from harness import environment, genkit, run, threads
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SAMPLES = 1000  # drawn from a model, and real images they are compared with
FIRST_SEED = 1_000_000  # of the samples: far from those of a run's own sheets and measurements
GRID = "64-127"  # seeds on the sheet that is kept


def cores(wanted: str | None) -> None:
    """Keep this process, and what it starts, on some cores, such as "0" or "0,1"."""
    if wanted is not None:
        os.sched_setaffinity(0, {int(core) for core in wanted.split(",")})


def environment_of() -> dict[str, str]:
    """As many threads for one contender as for the other."""
    return {"OMP_NUM_THREADS": str(threads())}


@dataclass(frozen=True)
class Run:
    """How one `genkit train-gan` went.

    Attributes:
        code: its exit status; 6 where it stopped itself.
        seconds: wall time of the whole process.
        report: what `--json` printed; empty where it failed.
        said: its standard error.
    """

    out: Path
    code: int
    seconds: float
    report: dict[str, Any]
    said: str


def train(data: Path, out: Path, *flags: object, may_stop: bool = False) -> Run:
    """One run, anew.

    Args:
        may_stop: take a run that stopped itself as one that ended.
    """
    command = genkit("train-gan", "--data", data, "--out", out, "--force", "--json", *map(str, flags))
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**environment_of()))
    seconds = time.perf_counter() - started
    if done.returncode and not (may_stop and done.returncode == 6):
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return Run(out, done.returncode, seconds, json.loads(done.stdout) if done.stdout else {}, done.stderr)


def rows(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# --- images -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Images to train on, and others to judge by.

    Attributes:
        data: a zip of `count` images.
        held_out: image files, none of them in the zip.
    """

    data: Path
    count: int
    held_out: list[bytes]


def split(source: Path, folder: Path, *, count: int | None = None, held_out: int = SAMPLES) -> Split:
    """Divide a folder or zip of images, or Fashion-MNIST's folder of idx files, at random but always alike.

    Args:
        folder: where the zip goes.
        count: images to train on; default: all others.
        held_out: images to judge by; at most half of them.
    """
    files = list(_files(source))
    order = np.random.default_rng(0).permutation(len(files))
    held_out = min(held_out, len(files) // 2)
    held, kept = order[:held_out], order[held_out:][:count]
    data = folder / f"{source.stem}.zip"
    with zipfile.ZipFile(data, "w") as archive:  # stored: images are compressed already
        for i in sorted(kept.tolist()):
            archive.writestr(*files[i].read())
    return Split(data, len(kept), [files[i].read()[1] for i in held.tolist()])


@dataclass(frozen=True)
class _File:
    """An image file: its name, and how its bytes are had."""

    name: str
    source: Any  # a genkit Source, or the pixels themselves

    def read(self) -> tuple[str, bytes]:
        if isinstance(self.source, np.ndarray):
            return self.name, png(self.source)
        with self.source.open(self.name) as file:
            return self.name, file.read()


def _files(source: Path) -> Iterable[_File]:
    """All images of a source that can be read."""
    from genkit.image.sources import scan

    if source.is_dir() and (idx := sorted(source.glob("*-images-idx3-ubyte*"))):
        for path in idx:
            for i, pixels in enumerate(read_idx(path)):
                yield _File(f"{path.name.split('-')[0]}-{i:05d}.png", pixels[:, :, None])
        return
    found = scan(source)
    for name in found.names:
        file = _File(name, found)
        try:
            decoded(file.read()[1], 8, 3)
        except Exception:  # an untidy folder is one of the data sets to try
            continue
        yield file


def read_idx(path: Path) -> Pixels:
    """The images (N, H, W) of an idx file, the format of MNIST, packed or not."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    shape = np.frombuffer(data, ">u4", 3, offset=4)
    return np.frombuffer(data, np.uint8, offset=16).reshape(shape)


def decoded(data: bytes, size: int, channels: int) -> Pixels:
    """An image file as `genkit train-gan` sees it."""
    from genkit.image.decode import decode

    return decode(io.BytesIO(data), size, channels, "crop")


def png(pixels: Pixels) -> bytes:
    """(H, W, C) as a file."""
    from genkit.image.canvas import encode

    return encode(pixels, "png")


def write_zip(path: Path, pixels: Pixels) -> Path:
    """Images (N, H, W, C) as a zip of png files."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, image in enumerate(pixels):
            archive.writestr(f"{i:05d}.png", png(image))
    return path


# --- judging ------------------------------------------------------------------------------


def sampled(model: Path, scratch: Path, n: int = SAMPLES) -> Pixels:
    """`n` images (n, H, W, C) of a model, as `genkit image` draws them."""
    out = scratch / "samples.npz"
    seeds = f"{FIRST_SEED}-{FIRST_SEED + n - 1}"
    run(genkit("image", "-m", model, "--seeds", seeds, "--out", out, "--device", "cpu", "-q"), **environment_of())
    with np.load(out, allow_pickle=False) as held:
        return np.asarray(held["images"])


def sheet(model: Path, out: Path) -> None:
    """Keep a grid of 64 pictures as `out`."""
    run(genkit("image", "-m", model, "--seeds", GRID, "--out", out, "--device", "cpu", "-q"), **environment_of())


class Judge:
    """Compares models with images that they have not seen, by EfficientNet-Lite0's features and by pixels."""

    def __init__(self, files: list[bytes], scratch: Path) -> None:
        self._files, self._scratch = files, scratch
        self._real: dict[tuple[int, ...], tuple[Pixels, NDArray[np.float32]]] = {}

    def __call__(self, model: Path) -> dict[str, float]:
        """kd: unbiased kernel distance; variety: diversity of samples as a share of the real images'."""
        from genkit.image.metrics import diversity, kernel_distance

        fake = sampled(model, self._scratch, SAMPLES)
        real, known = self._real_images(fake.shape[1:])
        return {"kd": kernel_distance(known, features(fake)), "variety": diversity(fake) / diversity(real)}

    def _real_images(self, shape: tuple[int, ...]) -> tuple[Pixels, NDArray[np.float32]]:
        if shape not in self._real:
            pixels = np.stack([decoded(data, shape[0], shape[2]) for data in self._files])
            self._real[shape] = pixels, features(pixels)
        return self._real[shape]


def features(pixels: Pixels) -> NDArray[np.float32]:
    """EfficientNet-Lite0's features (N, 1280)."""
    return np.asarray(_network()(pixels))


@cache
def _network() -> Any:
    import torch

    from genkit.image.features import FeatureNet

    torch.set_num_threads(threads())
    return FeatureNet()


# --- flags --------------------------------------------------------------------------------


def seeds(text: str) -> list[int]:
    """ "0-2" or "0,4" as numbers."""
    from genkit.image.config import parse_seeds

    return parse_seeds(text)

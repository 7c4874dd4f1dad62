"""Training images: decoded once into one memory-mapped uint8 file, then read in batches."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from genkit.errors import InputError
from genkit.files import atomic_write, read_json, write_json
from genkit.image.config import GANTrainConfig
from genkit.image.decode import decode
from genkit.image.noise import FLIP, ORDER, philox
from genkit.image.sources import Source, scan
from genkit.runtime.device import cpu_count

STORE, META = "images.u8", "meta.json"


@dataclass(frozen=True)
class ImageReport:
    """What was found and read.

    Attributes:
        count: images in the store.
        bad: (name, reason) of each file that could not be read.
        ignored: files with other extensions.
        folders: images in each first-level sub-folder.
        fingerprint: SHA-256 over names, sizes, times and the settings below.
        sha256: of the decoded pixels.
    """

    source: str
    count: int
    size: int
    channels: int
    fit: str
    bad: tuple[tuple[str, str], ...]
    ignored: int
    folders: dict[str, int]
    fingerprint: str
    sha256: str

    def line(self) -> str:
        """`60,000 images, read as 64x64 RGB (crop), in 3 sub-folders`"""
        kind = "grey" if self.channels == 1 else "RGB"
        folders = f", in {len(self.folders)} sub-folders" if self.folders else ""
        return f"{self.count:,} images, read as {self.size}x{self.size} {kind} ({self.fit}){folders}"

    def warnings(self, batch_size: int) -> list[str]:
        """What the user should know about the images before a long run."""
        found = []
        if self.bad:
            listed = "; ".join(f"{name}: {reason}" for name, reason in self.bad[:5])
            more = f"; the rest is in the run's data/{META}" if len(self.bad) > 5 else ""
            found.append(f"left out {len(self.bad)} unreadable images ({listed}{more})")
        if self.count < batch_size:
            found.append(f"{self.count} images are fewer than --batch-size {batch_size}, so they repeat in it")
        return found


@dataclass(frozen=True)
class ImageStore:
    """Decoded images (N, H, W, C) uint8 on disk, and what is known of them."""

    images: NDArray[np.uint8]
    report: ImageReport

    def batch(self, *, batch_size: int, seed: int, step: int, flip: bool) -> NDArray[np.uint8]:
        """The real images (batch_size, H, W, C) of a step: a pure function of (seed, step).

        Steps walk through one endless stream of shuffled epochs, so every image is
        seen once an epoch and a set smaller than the batch repeats within it.
        """
        n = len(self.images)
        first = step * batch_size
        places = np.arange(first, first + batch_size)
        chosen = np.concatenate(
            [
                epoch_order(n, seed, epoch)[places[places // n == epoch] - epoch * n]
                for epoch in range(first // n, (first + batch_size - 1) // n + 1)
            ]
        )
        batch: NDArray[np.uint8] = self.images[chosen]
        if flip:
            mirrored = philox(seed, FLIP, step).random(batch_size) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
        return batch


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order (n,) in which an epoch shows its images."""
    return philox(seed, ORDER, epoch).permutation(n)


def prepare(
    config: GANTrainConfig,
    folder: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    expected: str | None = None,
) -> ImageStore:
    """Decode `config.data` into `folder`, or open what an interrupted run decoded.

    Args:
        on_progress: called with (files done, files in all).
        expected: the fingerprint that the data must have, of a run that is resumed.

    Raises:
        InputError: no such folder, fewer than two readable images, a bad image under
            `--on-bad-image fail`, data that changed while it was read, or that is not
            what was expected.
        OutputError: the store cannot be written.
    """
    if config.data is None:
        raise InputError("no training images are named", "--data DIR or --data FILE.zip")
    source = scan(config.data)
    fingerprint = fingerprint_of(source, config)
    if expected not in (None, fingerprint):
        raise InputError(
            f"the images in {config.data!r} changed since this run began",
            "put them back, or start a new run with another --out or --force",
        )
    if (folder / META).exists():
        report = _read_report(folder / META)
        if report.fingerprint == fingerprint and _expected_bytes(report) == _size_of(folder / STORE):
            return _open(folder, report)
        (folder / META).unlink()
    report = _decode_all(source, config, folder, fingerprint, on_progress)
    if fingerprint_of(scan(config.data), config) != fingerprint:
        raise InputError(f"{config.data!r} changed while it was read", "start again when nothing writes to it")
    write_json(folder / META, asdict(report))
    return _open(folder, report)


def fingerprint_of(source: Source, config: GANTrainConfig) -> str:
    """SHA-256 of the names and stamps of all files and of how they are decoded."""
    digest = hashlib.sha256(json.dumps([config.size, config.channels, config.fit]).encode())
    for name in source.names:
        digest.update(json.dumps([name, *source.stamps[name]]).encode())
    return digest.hexdigest()


def _decode_all(
    source: Source,
    config: GANTrainConfig,
    folder: Path,
    fingerprint: str,
    on_progress: Callable[[int, int], None],
) -> ImageReport:
    bad = list(source.bad)
    if bad and config.on_bad_image == "fail":
        name, problem = bad[0]
        raise InputError(f"cannot read {name!r} in {config.data!r}: {problem}", "--on-bad-image skip leaves it out")
    digest = hashlib.sha256()
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / STORE) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters raises
        for done, (name, outcome) in enumerate(_decoded(source, config), start=1):
            if isinstance(outcome, str):
                bad.append((name, outcome))
                if config.on_bad_image == "fail":
                    raise InputError(
                        f"cannot read {name!r} in {config.data!r}: {outcome}", "--on-bad-image skip leaves it out"
                    )
            else:
                count += 1
                pixels = outcome.tobytes()
                digest.update(pixels)
                file.write(pixels)
            on_progress(done, len(source.names))
        if count < 2:
            first = f"; {bad[0][0]!r}: {bad[0][1]}" if bad else ""
            raise InputError(
                f"{count} readable image{'s' * (count != 1)} of {len(source.names)} in {config.data!r}{first}",
                "a GAN needs at least 2, and some hundreds to be worth training",
            )
    bad_names = {name for name, _ in bad}
    folders = Counter(name.split("/")[0] for name in source.names if "/" in name and name not in bad_names)
    return ImageReport(
        source=os.fspath(source.path),
        count=count,
        size=config.size,
        channels=config.channels,
        fit=config.fit,
        bad=tuple(bad),
        ignored=source.ignored.total(),
        folders=dict(folders),
        fingerprint=fingerprint,
        sha256=digest.hexdigest(),
    )


def _decoded(source: Source, config: GANTrainConfig) -> Iterator[tuple[str, NDArray[np.uint8] | str]]:
    """Pixels, or the reason there are none, of every file in order; threads decode ahead."""

    def read(name: str) -> NDArray[np.uint8] | str:
        try:
            with source.open(name) as file:
                return decode(file, config.size, config.channels, config.fit)
        except Exception as error:  # decoders raise anything on hostile files; each is one bad file
            if isinstance(error, UnidentifiedImageError):  # its text holds a memory address
                return "not an image of its kind"
            return str(error).replace("\n", " ") or type(error).__name__

    ahead: deque[tuple[str, Future[NDArray[np.uint8] | str]]] = deque()
    pool = ThreadPoolExecutor(min(8, cpu_count()))
    try:
        for name in source.names:
            ahead.append((name, pool.submit(read, name)))
            if len(ahead) >= 64:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _open(folder: Path, report: ImageReport) -> ImageStore:
    shape = (report.count, report.size, report.size, report.channels)
    return ImageStore(np.memmap(folder / STORE, np.uint8, "r", shape=shape), report)


def _read_report(path: Path) -> ImageReport:
    values: dict[str, Any] = read_json(path)
    try:
        values["bad"] = tuple((name, reason) for name, reason in values["bad"])
        return ImageReport(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the description of an image store", "delete it and resume") from error


def _expected_bytes(report: ImageReport) -> int:
    return report.count * report.size * report.size * report.channels


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1

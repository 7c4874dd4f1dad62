"""Read every image once: into one file of pixels, one of labels, and a report of what they are like."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import UnidentifiedImageError

from genkit.errors import InputError
from genkit.files import atomic_write, write_bytes
from genkit.image.config import GANTrainConfig
from genkit.image.decode import Picture, picture
from genkit.image.handed import is_handed
from genkit.image.report import ImageReport
from genkit.image.sources import Source
from genkit.image.split import classes_of, count_folders, folders_of, held_out_of
from genkit.runtime.device import cpu_count

STORE, LABELS = "images.u8", "labels.i64"
_TOLERATED, _TOLERATED_SHARE = 10, 0.1  # unreadable files; more than both are no accident

Progress = Callable[[int, int], None]


class Coloured(Exception):
    """Images that were to be stored as grey, if they all are, are not."""


@dataclass(frozen=True)
class _Job:
    """An image to read: where, and the sub-folder that it counts to."""

    source: Source
    name: str
    folder: str | None


@dataclass
class _Tally:
    """What the images that were read are like."""

    bad: list[tuple[str, str]]
    known: set[bytes] = field(default_factory=set)  # hashes of the training images
    copies: int = 0
    overlap: int = 0
    sides: list[tuple[int, int]] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    transparent: int = 0
    grey: bool = True

    def add(self, read: Picture) -> None:
        self.sides.append((read.width, read.height))
        self.modes[read.mode] += 1
        self.transparent += read.transparent
        self.grey &= read.grey


def ingest(
    sources: Sequence[Source],
    config: GANTrainConfig,
    channels: int,
    folder: Path,
    fingerprint: str,
    on_progress: Progress,
) -> ImageReport:
    """Write the training images, then those held out, into `folder`.

    Args:
        sources: the training images; then, if given, the images to hold out.
        channels: to store; 1 where `config` leaves it open, until an image is not grey.

    Raises:
        Coloured: that one came.
        InputError: as `genkit.image.data.prepare`.
        OutputError: the files cannot be written.
    """
    training, held_out = _jobs(sources, config)
    tally = _Tally([bad for source in sources for bad in source.bad])
    digest = hashlib.sha256()
    files = len(training) + len(held_out)

    def append(file: IO[bytes], jobs: Sequence[_Job], before: int, *, to_train_on: bool) -> list[str | None]:
        """Store the images of `jobs`; returns the sub-folder of each one stored."""
        stored = []
        for done, (job, read) in enumerate(_decoded(jobs, config, channels), start=before + 1):
            on_progress(done, files)
            if isinstance(read, str):
                tally.bad.append((job.name, read))
                _check_bad(tally.bad, files, config)
                continue
            if config.channels is None and channels == 1 and not read.grey:
                raise Coloured
            tally.add(read)
            pixels = read.pixels.tobytes()
            key = hashlib.blake2b(pixels, digest_size=16).digest()
            if key in tally.known:
                tally.copies += to_train_on
                tally.overlap += not to_train_on
                if not to_train_on or config.duplicates == "drop":
                    continue
            elif to_train_on:
                tally.known.add(key)
            digest.update(pixels)
            file.write(pixels)
            stored.append(job.folder)
        return stored

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / STORE) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters raises
        _check_bad(tally.bad, files, config)
        trained = append(file, training, 0, to_train_on=True)
        if len(trained) < 2:
            first = f"; {tally.bad[0][0]!r}: {tally.bad[0][1]}" if tally.bad else ""
            found = f"{len(trained)} readable image{'s' * (len(trained) != 1)} of {len(training)}"
            raise InputError(
                f"{found} in {config.data!r}{first}", "a GAN needs at least 2, and some hundreds to be worth training"
            )
        classes, unlabelled = classes_of(trained, config.labels)
        held_out = [job for job in held_out if not classes or job.folder in classes]
        held = append(file, held_out, len(training), to_train_on=False)
    if classes:
        number: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
        labels = np.array([number[name] for name in [*trained, *held]], dtype=np.int64)
        write_bytes(folder / LABELS, labels.tobytes())
    pixels = np.memmap(folder / STORE, np.uint8, "r", shape=(len(trained), config.size, config.size, channels))
    sides = np.array(tally.sides)  # (N, 2)
    low, middle, high = ((int(w), int(h)) for w, h in (sides.min(0), np.median(sides, 0), sides.max(0)))
    return ImageReport(
        source=os.fspath(sources[0].path),
        count=len(trained),
        held_out=len(held),
        size=config.size,
        channels=channels,
        fit=config.fit,
        bad=tuple(tally.bad),
        foreign=dict(sources[0].foreign),
        folders=count_folders(trained),
        classes=classes,
        unlabelled=unlabelled,
        sides=(low, middle, high),
        smaller=int(((sides.max(1) if config.fit == "pad" else sides.min(1)) < config.size).sum()),
        modes=dict(tally.modes),
        transparent=tally.transparent,
        grey=tally.grey,
        copies=tally.copies,
        dropped=tally.copies if config.duplicates == "drop" else 0,
        overlap=tally.overlap,
        handed=is_handed(pixels),
        fingerprint=fingerprint,
        sha256=digest.hexdigest(),
    )


def _jobs(sources: Sequence[Source], config: GANTrainConfig) -> tuple[list[_Job], list[_Job]]:
    """Images to train on, and images to hold out.

    Raises:
        InputError: `--labels folders` on other folders, or classes of `--val-data` that training has not.
    """
    jobs = [
        [_Job(source, name, folder) for name, folder in zip(source.names, folders_of(source.names), strict=True)]
        for source in sources
    ]
    folders = [job.folder for job in jobs[0]]
    classes, _ = classes_of(folders, config.labels)  # what does not suit shows now, not after an hour
    if len(jobs) == 1:
        held = held_out_of(folders)
        return [jobs[0][i] for i in np.flatnonzero(~held)], [jobs[0][i] for i in np.flatnonzero(held)]
    for job in jobs[1]:
        if classes and job.folder not in classes:
            raise InputError(
                f"{job.name!r} of --val-data lies in no sub-folder that is a class of the training images",
                "give both the same sub-folders, or add --labels none",
            )
    return jobs[0], jobs[1]


def _check_bad(bad: Sequence[tuple[str, str]], files: int, config: GANTrainConfig) -> None:
    """Raise InputError when more files are unreadable than `--on-bad-image` takes."""
    if not bad or config.on_bad_image == "skip":
        return
    if config.on_bad_image == "fail":
        name, problem = bad[0]
        raise InputError(f"cannot read {name!r} in {config.data!r}: {problem}", "--on-bad-image skip leaves it out")
    if len(bad) > max(_TOLERATED, _TOLERATED_SHARE * files):
        listed = "; ".join(f"{name}: {problem}" for name, problem in bad[:5])
        raise InputError(
            f"more than a tenth of the {files:,} images in {config.data!r} cannot be read ({listed} ...)",
            "--on-bad-image skip trains on the others",
        )


def _decoded(jobs: Sequence[_Job], config: GANTrainConfig, channels: int) -> Iterator[tuple[_Job, Picture | str]]:
    """The image, or the reason there is none, of every job in order; threads decode ahead."""

    def read(job: _Job) -> Picture | str:
        try:
            with job.source.open(job.name) as file:
                return picture(file, config.size, channels, config.fit)
        except Exception as error:  # decoders raise anything on hostile files; each is one bad file
            if isinstance(error, UnidentifiedImageError):  # its text holds a memory address
                return "not an image of its kind"
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return reason.replace("\n", " ") or type(error).__name__

    ahead: deque[tuple[_Job, Future[Picture | str]]] = deque()
    pool = ThreadPoolExecutor(min(8, cpu_count()))
    try:
        for job in jobs:
            ahead.append((job, pool.submit(read, job)))
            if len(ahead) >= 64:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

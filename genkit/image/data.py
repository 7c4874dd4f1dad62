"""Training images: decoded once into one memory-mapped uint8 file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from genkit.errors import InputError
from genkit.files import read_json, write_json
from genkit.image.config import GANTrainConfig
from genkit.image.ingest import LABELS, Coloured, Progress, ingest
from genkit.image.ingest import STORE as STORE
from genkit.image.report import ImageReport as ImageReport
from genkit.image.sources import Source, scan
from genkit.image.store import ImageStore as ImageStore

META = "meta.json"
_MAX_META = 1 << 30  # bytes; it lists every file that could not be read


def prepare(
    config: GANTrainConfig,
    folder: Path,
    *,
    on_progress: Progress = lambda done, total: None,
    expected: str | None = None,
) -> ImageStore:
    """Decode `config.data` into `folder`, or open what an interrupted run decoded.

    Args:
        on_progress: called with (files done, files in all).
        expected: the fingerprint that the data must have, of a run that is resumed.

    Raises:
        InputError: no such data, fewer than two readable images, more unreadable ones
            than `--on-bad-image` takes, folders that do not give the labels asked for,
            data that changed while it was read, or that is not what was expected.
        OutputError: the store cannot be written.
    """
    if config.data is None:
        raise InputError("no training images are named", "--data DIR or --data FILE.zip")
    sources = _scan(config)
    fingerprint = fingerprint_of(sources, config)
    if expected not in (None, fingerprint):
        raise InputError(
            f"the images in {config.data!r} changed since this run began",
            "put them back, or start a new run with another --out or --force",
        )
    if (folder / META).exists():
        report = _read_report(folder / META)
        channels = config.channels or (1 if report.grey else 3)
        if report.fingerprint == fingerprint and report.channels == channels and _is_whole(folder, report):
            return _open(folder, report)
        (folder / META).unlink()
    try:
        report = ingest(sources, config, config.channels or 1, folder, fingerprint, on_progress)
    except Coloured:
        report = ingest(sources, config, 3, folder, fingerprint, on_progress)
    if fingerprint_of(_scan(config), config) != fingerprint:
        raise InputError(f"{config.data!r} changed while it was read", "start again when nothing writes to it")
    write_json(folder / META, asdict(report))
    return _open(folder, report)


def settled(config: GANTrainConfig, report: ImageReport) -> GANTrainConfig:
    """`config` with the channels and the mirroring that it leaves to the images."""
    flip = not report.handed if config.flip is None else config.flip
    return config.replace(channels=report.channels, flip=flip)


def fingerprint_of(sources: Sequence[Source], config: GANTrainConfig) -> str:
    """SHA-256 of the names and stamps of all files, and of how they become a store.

    Channels are left out: a run that found them by itself is resumed with what it found.
    """
    how = [config.size, config.fit, config.labels, config.duplicates, len(sources)]
    digest = hashlib.sha256(json.dumps(how).encode())
    for source in sources:
        for name in source.names:
            digest.update(json.dumps([name, *source.stamps[name]]).encode())
    return digest.hexdigest()


def _scan(config: GANTrainConfig) -> list[Source]:
    """The images to train on, and those of `--val-data`."""
    return [scan(path, flag) for path, flag in ((config.data, "--data"), (config.val_data, "--val-data")) if path]


def _read_report(path: Path) -> ImageReport:
    try:
        return ImageReport.from_dict(read_json(path, limit=_MAX_META))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the description of an image store", "delete it and resume") from error


def _open(folder: Path, report: ImageReport) -> ImageStore:
    shape = (report.count + report.held_out, report.size, report.size, report.channels)
    images = np.memmap(folder / STORE, np.uint8, "r", shape=shape)
    labels = np.fromfile(folder / LABELS, np.int64) if report.classes else None
    n = report.count
    held_out = ImageStore(images[n:], report, None if labels is None else labels[n:]) if report.held_out else None
    return ImageStore(images[:n], report, None if labels is None else labels[:n], held_out)


def _is_whole(folder: Path, report: ImageReport) -> bool:
    n = report.count + report.held_out
    expected = {STORE: n * report.size * report.size * report.channels}
    if report.classes:
        expected[LABELS] = n * 8
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in expected.items())

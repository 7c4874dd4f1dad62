"""Where training images lie: a folder with its sub-folders, a zip read in place, or a known data set."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from genkit.errors import InputError
from genkit.library import RUN_MARK

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}
)
NAMED = "torchvision:"  # how the name of a data set begins
MAX_FILE = 256 << 20  # bytes of one file, unpacked; far above any image within MAX_PIXELS


@dataclass
class Source:
    """The image files of one folder, zip or data set.

    Attributes:
        path: the folder or file.
        names: POSIX paths below it, sorted.
        stamps: per name, what changes with its content: (size, mtime) or (size, CRC).
        foreign: how many files of each other extension there are.
        bad: (name, reason) of what cannot even be opened.
        read: opens a name where that is not a file below `path`.
    """

    path: Path
    names: list[str] = field(default_factory=list)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    foreign: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)
    read: Callable[[str], BinaryIO] | None = None

    def open(self, name: str) -> BinaryIO:
        """The bytes of one image.

        Raises:
            ValueError: larger than `MAX_FILE`.
            OSError, zipfile.BadZipFile, NotImplementedError: unreadable.
        """
        if self.stamps[name][0] > MAX_FILE:
            raise ValueError(f"{self.stamps[name][0]:,} bytes are more than {MAX_FILE:,}")
        return open(self.path / name, "rb") if self.read is None else self.read(name)

    def add(self, name: str, stamp: tuple[int, int]) -> None:
        """Note an image, or what is none by its extension."""
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in EXTENSIONS:
            self.names.append(name)
            self.stamps[name] = stamp
        else:
            self.foreign[suffix] += 1


def scan(path: str | Path, flag: str = "--data") -> Source:
    """List the images of a folder or zip without opening them, or open a data set by its name.

    Args:
        flag: where the path comes from, for the errors.

    Raises:
        UsageError: `torchvision:` and no name of a set that genkit reads.
        InputError: nothing there, not a folder or zip, an encrypted zip, or no images.
    """
    if str(path).startswith(NAMED):
        from genkit.image.sets import open_set  # which makes a Source

        return open_set(str(path), flag)
    source = Source(Path(path))
    if source.path.is_dir():
        for name, stamp in _walk(source):
            source.add(name, stamp)
    elif source.path.is_file():
        _read_zip(source)
    else:
        raise InputError(f"{flag} {os.fspath(path)!r} does not exist", "name a folder or a zip of images")
    source.names.sort()
    if not source.names:
        others = ", ".join(f"{n} {suffix or 'without extension'}" for suffix, n in source.foreign.most_common(3))
        raise InputError(
            f"no images in {str(path)!r}" + (f" (there are {others})" if others else ""),
            f"genkit reads {' '.join(sorted(e[1:] for e in EXTENSIONS))}",
        )
    return source


def _walk(source: Source) -> Iterator[tuple[str, tuple[int, int]]]:
    """Files below the folder; links are followed, each folder is entered once."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            status = (source.path / folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(source.path / folder))
            if folder and any(entry.name == RUN_MARK for entry in entries):
                continue  # what genkit wrote is no data: `--data . --out run` reads the run's parent
        except OSError as error:
            source.bad.append((folder or ".", error.strerror or str(error)))
            continue
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                status = entry.stat()
            except OSError as error:
                source.bad.append((name, error.strerror or str(error)))
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append(name)
            elif stat.S_ISREG(status.st_mode):
                yield name, (status.st_size, status.st_mtime_ns)


def _read_zip(source: Source) -> None:
    """List a zip's members. Nothing is extracted, so a member's name harms nobody."""
    try:
        archive = zipfile.ZipFile(source.path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{str(source.path)!r} is not a folder or a readable zip: {error}", "name a folder or a zip of images"
        ) from error
    source.read = lambda name: io.BytesIO(archive.read(name))
    for member in archive.infolist():
        hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in member.filename.split("/"))
        if member.is_dir() or hidden or stat.S_ISLNK(member.external_attr >> 16):
            continue
        if member.flag_bits & 0x1:
            raise InputError(f"{str(source.path)!r} is encrypted", "unpack it and name the folder")
        source.add(member.filename, (member.file_size, member.CRC))

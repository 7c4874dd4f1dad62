"""What was found in the training images: kept with them, and told before a long run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genkit.image.modelconfig import CHANNELS, SIZES

_COPIES = 0.01  # share of exact copies that is worth a word
_FEW = 200  # images that a GAN learns by heart before it learns what they have in common
_CONVERT = {".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".raw", ".cr2", ".nef", ".dng", ".eps", ".pdf"}


@dataclass(frozen=True)
class ImageReport:
    """What was found and read.

    Attributes:
        count, held_out: images to train on, and images that training never sees.
        size, channels, fit: how they are stored.
        bad: (name, reason) of each file that could not be read.
        foreign: files of each other extension.
        folders: training images in each sub-folder of the first level.
        classes: names of the labels; empty without, and `unlabelled` says why.
        sides: smallest, median and largest (width, height), each on its own.
        smaller: images that had to be enlarged.
        modes: images of each Pillow mode.
        transparent, grey: files with transparency; whether all images are grey.
        copies: images that equal an earlier one, pixel by pixel; `dropped` of them are left out.
        overlap: images left out of the held-out ones because training sees a copy.
        handed: left and right are told apart, so that mirror images do not belong.
        fingerprint: SHA-256 over names, sizes, times and settings.
        sha256: of the decoded pixels.
    """

    source: str
    count: int
    held_out: int
    size: int
    channels: int
    fit: str
    bad: tuple[tuple[str, str], ...]
    foreign: dict[str, int]
    folders: dict[str, int]
    classes: tuple[str, ...]
    unlabelled: str
    sides: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    smaller: int
    modes: dict[str, int]
    transparent: int
    grey: bool
    copies: int
    dropped: int
    overlap: int
    handed: bool
    fingerprint: str
    sha256: str

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageReport:
        """Read what `dataclasses.asdict` gave, by way of JSON.

        Raises:
            KeyError, TypeError, ValueError: not such a dict.
        """
        lists = {"bad": tuple(map(tuple, values["bad"])), "sides": tuple(map(tuple, values["sides"]))}
        return cls(**{**values, **lists, "classes": tuple(values["classes"])})

    def line(self) -> str:
        """`57,000 images, read as 64x64 RGB (crop), 1,000 held out, in 3 classes`"""
        held_out = f", {self.held_out:,} held out" if self.held_out else ""
        classes = f", in {len(self.classes)} classes" if self.classes else ""
        form = f"{self.size}x{self.size} {CHANNELS[self.channels]} ({self.fit})"
        return f"{self.count:,} images, read as {form}{held_out}{classes}"

    def lines(self) -> list[str]:
        """The report: one fact a line, the least surprising ones left out."""
        low, middle, high = (f"{width}x{height}" for width, height in self.sides)
        found = [self.line(), f"files: {low} to {high} pixels, median {middle}; {_counts(self.modes)}"]
        if self.classes:
            found.append(f"labels: {_counts(self.folders)}")
        elif self.folders:
            found.append(f"no labels: {self.unlabelled}")
        if self.foreign:
            found.append(f"not images: {_counts({suffix or 'no extension': n for suffix, n in self.foreign.items()})}")
        if self.handed:
            found.append("left is told from right in them: they are mirrored with --flip only")
        if self.dropped:
            found.append(f"{self.dropped:,} exact copies are left out")
        if self.overlap:
            one = self.overlap == 1
            what = "1 held-out image is" if one else f"{self.overlap:,} held-out images are"
            found.append(f"{what} left out, because a copy of {'it' if one else 'each'} is trained on")
        return found

    def facts(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        bad = [f"{name}: {reason}" for name, reason in self.bad]
        return asdict(self) | {"bad": bad, "sides": [f"{width}x{height}" for width, height in self.sides]}

    def warnings(self, batch_size: int) -> list[str]:
        """What the user should know about the images before a long run."""
        found = []
        if self.bad:
            listed = "; ".join(f"{name}: {reason}" for name, reason in self.bad[:5])
            more = "; the rest is in the run's data/meta.json" if len(self.bad) > 5 else ""
            images = "image" if len(self.bad) == 1 else "images"
            found.append(f"left out {len(self.bad):,} unreadable {images} ({listed}{more})")
        if convert := {suffix: n for suffix, n in self.foreign.items() if suffix in _CONVERT}:
            found.append(f"not read: {_counts(convert)}; as PNG or JPEG they could be trained on")
        if self.count < batch_size:
            found.append(f"{self.count} images are fewer than --batch-size {batch_size}, so they repeat in it")
        if self.count < _FEW:
            found.append(f"{self.count} images are few: expect copies of them; some thousands give variety")
        median = min(self.sides[1])
        if self.smaller > (self.count + self.held_out) / 2 and self.size > SIZES[0]:
            fitting = max((size for size in SIZES if size <= median), default=SIZES[0])
            found.append(
                f"{self.smaller:,} images are smaller than {self.size}x{self.size} and are enlarged, which adds "
                f"no detail: --size {fitting} trains faster"
            )
        if self.copies - self.dropped > _COPIES * self.count:
            found.append(f"{self.copies:,} images are exact copies of earlier ones: --duplicates drop leaves them out")
        if self.transparent and self.channels != 4:
            found.append(f"{self.transparent:,} images have transparency, laid on white: --channels 4 keeps it")
        return found


def _counts(numbers: dict[str, int], most: int = 6) -> str:
    """`5 cat, 4 dog`: the largest first, what does not fit as a number of others."""
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {name}" for name, n in ranked[:most]]
    if rest := ranked[most:]:
        shown.append(f"{sum(n for _, n in rest):,} in {len(rest)} others")
    return ", ".join(shown)

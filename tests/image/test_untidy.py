"""What goes wrong with folders of images, D01 to D25; the plain cases are in test_data.py and test_decode.py.

D01-03 nothing, other files, one image. D04-06 cut, empty, another extension. D07 bombs. D08 turned. D09 16 bits.
D10-14 CMYK, palettes, animations, lines, grey among colours. D15 names. D16-18 links, unreadable, deleted.
D19-20 hostile zips. D21 100,000 files. D22 formats that run code. D23 a broken set. D24-25 foreign formats, hostile
metadata.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from genkit.errors import InputError
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare
from genkit.image.sources import Source, scan
from genkit.image.store import ImageStore


def image(value: int = 0, mode: str = "RGB", side: int = 32, form: str = "PNG", **how: object) -> bytes:
    """A noisy picture of its own."""
    noise = np.random.default_rng(value).integers(0, 255, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, form, **how)  # type: ignore[arg-type]
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return png[:33] + chunk(kind, data) + png[33:]


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def read(data: Path, store: Path, **settings: object) -> ImageStore:
    return prepare(GANTrainConfig(data=str(data), size=32, **settings), store)  # type: ignore[arg-type]


def some(n: int) -> dict[str, bytes]:
    return {f"{i:03d}.png": image(i) for i in range(n)}


def test_an_untidy_folder_just_works(tmp_path: Path) -> None:
    """Sizes, modes, formats, broken and foreign files, sub-folders: what can be read is read, the rest is named."""
    files = {
        "holiday/IMG_1.JPG": image(1, form="JPEG", side=300),
        "holiday/scan.tiff": image(2, "CMYK", form="TIFF", side=40),
        "old/grey.png": image(3, "L", side=70),
        "old/logo.gif": image(4, "P", side=9, form="GIF"),
        "clear.png": image(5, "RGBA", side=64),
        "one.png": image(6, "1", side=50),
        "holiday/cut.jpg": image(7, form="JPEG", side=300)[:2000],
        "holiday/empty.jpg": b"",
        "holiday/clip.mp4": b"video",
        "phone.HEIC": b"heic",
        "Thumbs.db": b"db",
        ".DS_Store": b"mac",
        "drawing.svg": b"<svg/>",
    }
    report = read(folder(tmp_path / "d", files), tmp_path / "s").report
    assert (report.count, report.channels, report.classes) == (6, 3, ())
    assert report.modes == {"RGB": 1, "CMYK": 1, "L": 1, "P": 1, "RGBA": 1, "1": 1}
    assert report.sides == ((9, 9), (57, 57), (300, 300))
    assert report.transparent == 1
    assert report.unlabelled == "2 images lie outside of sub-folders"
    assert [name for name, _ in report.bad] == ["holiday/cut.jpg", "holiday/empty.jpg"]
    assert report.foreign == {".mp4": 1, ".heic": 1, ".db": 1, ".svg": 1}
    said = report.lines() + report.warnings(batch_size=4)
    assert "not images: 1 .db, 1 .heic, 1 .mp4, 1 .svg" in said
    assert "not read: 1 .heic, 1 .svg; as PNG or JPEG they could be trained on" in said
    assert "1 images have transparency, laid on white: --channels 4 keeps it" in said


def test_another_extension_than_the_format_is_read(tmp_path: Path) -> None:
    """D06."""
    store = read(folder(tmp_path / "d", {"a.jpg": image(1), "b.png": image(2, form="JPEG")}), tmp_path / "s")
    assert len(store) == 2
    assert not store.report.bad


def gif_beyond_its_screen() -> bytes:
    """A screen of one pixel and a frame of 60,000 x 60,000."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x4c\x01\x00;"


BOMBS = {
    "gif.gif": gif_beyond_its_screen(),
    "text.png": with_chunk(image(1), b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20))),
    "many.png": with_chunk(image(1), b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(80 << 20))),
    "icc.png": with_chunk(image(1), b"iCCP", b"icc\0\0" + zlib.compress(bytes(100 << 20))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_bad_files(tmp_path: Path, name: str) -> None:
    """D07, D25: pixels, text and colour profiles that unpack to far more than they are."""
    store = read(folder(tmp_path / "d", some(2) | {name: BOMBS[name]}), tmp_path / "s")
    assert len(store) == 2
    assert [bad for bad, _ in store.report.bad] == [name]


def test_a_thumbnail_is_never_decoded(tmp_path: Path) -> None:
    """D25: EXIF with a second picture, which is a bomb."""
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    entries = struct.pack("<HHHLL", 1, 0x0112, 3, 1, 1)  # orientation 1
    second = struct.pack("<HHHLLHHLLL", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(bomb), 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<L", 8) + entries + struct.pack("<L", 26) + second + bomb
    store = read(folder(tmp_path / "d", some(2) | {"a.jpg": image(3, form="JPEG", exif=exif)}), tmp_path / "s")
    assert len(store) == 3
    assert not store.report.bad


@pytest.mark.parametrize("colour_at", [None, 0, 200])
def test_grey_among_colours(tmp_path: Path, colour_at: int | None) -> None:
    """D14: one coloured image, wherever it is, makes all of them RGB; only without any are they grey."""
    files = {f"{i:03d}.png": image(i, "RGB" if i == colour_at else "L") for i in range(201)}
    files["100.png"] = image(7, "LA")
    store = read(folder(tmp_path / "d", files), tmp_path / "s")
    assert store.images.shape == (201, 32, 32, 1 if colour_at is None else 3)
    assert store.report.grey is (colour_at is None)
    if colour_at is not None:
        assert (np.ptp(store.images.astype(int), axis=3).max((1, 2)) > 0).nonzero()[0].tolist() == [colour_at]


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    """D16: who links to another disk means it; each folder is read once."""
    elsewhere = folder(tmp_path / "elsewhere", some(2))
    data = folder(tmp_path / "d", {"a.png": image(9)})
    (data / "more").symlink_to(elsewhere)
    (data / "twice").symlink_to(elsewhere)
    (data / "one.png").symlink_to(elsewhere / "000.png")
    assert len(scan(data).names) == 4


def test_files_and_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D17."""
    data = folder(tmp_path / "d", some(3))
    opened = Source.open

    def refuse(self: Source, name: str) -> BinaryIO:
        if name == "001.png":
            raise PermissionError(13, "Permission denied", str(self.path / name))
        return opened(self, name)

    monkeypatch.setattr(Source, "open", refuse)
    assert read(data, tmp_path / "s").report.bad == (("001.png", "Permission denied"),)


def test_a_file_deleted_after_it_was_listed(tmp_path: Path) -> None:
    """D18: while it is read, the set changes; afterwards, training needs it no more."""
    data = folder(tmp_path / "d", some(200))
    config = GANTrainConfig(data=str(data), size=32)
    with pytest.raises(InputError, match="changed while it was read"):
        prepare(config, tmp_path / "s", on_progress=lambda done, _: (data / "199.png").unlink(missing_ok=True))
    store = prepare(config, tmp_path / "s")
    before, _ = store.batch(batch_size=199, seed=0, step=0, flip=False)
    for file in data.iterdir():
        file.unlink()
    after, _ = store.batch(batch_size=199, seed=0, step=0, flip=False)
    assert np.array_equal(before, after)


def test_many_files_cost_one_look_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D21: 100,000 files must be listed in seconds, so none is opened and none asked twice."""
    data = tmp_path / "d"
    for i in range(3000):
        (data / f"{i % 10}").mkdir(parents=True, exist_ok=True)
        (data / f"{i % 10}" / f"{i}.jpg").touch()
    looked: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", None)
        patch.setattr("os.stat", lambda path, stat=os.stat, **how: (looked.append(path), stat(path, **how))[1])
        names = scan(data).names
    assert len(names) == 3000
    assert len(looked) < 20  # the folders; of the files, the listing itself tells
    assert names == sorted(names)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
FITS = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)


@pytest.mark.parametrize("content", [POSTSCRIPT, FITS, b"8BPS\0\1" + bytes(60)], ids=["EPS", "FITS", "PSD"])
def test_formats_with_a_history_are_not_tried(tmp_path: Path, content: bytes) -> None:
    """D22: also under the name of another format."""
    store = read(folder(tmp_path / "d", some(2) | {"x.png": content}), tmp_path / "s")
    assert store.report.bad == (("x.png", "not an image of its kind"),)


@pytest.mark.parametrize(("good", "broken", "accepted"), [(2, 10, True), (89, 11, False), (99, 11, True)])
def test_a_set_that_is_broken_altogether(tmp_path: Path, good: int, broken: int, accepted: bool) -> None:
    """D23: ten broken files are an accident in any folder, and a tenth of them in a large one."""
    data = folder(tmp_path / "d", some(good) | {f"b{i}.jpg": b"broken" for i in range(broken)})
    if accepted:
        assert len(read(data, tmp_path / "s").report.bad) == broken
        return
    with pytest.raises(InputError, match=r"more than a tenth of the 100 images .* \(b0.jpg: not an image") as caught:
        read(data, tmp_path / "s")
    assert "--on-bad-image skip" in str(caught.value.hint)
    assert not list((tmp_path / "s").iterdir())
    assert len(read(data, tmp_path / "s", on_bad_image="skip")) == good

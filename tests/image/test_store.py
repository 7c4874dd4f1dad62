"""Labels, held-out images and copies: what a store holds besides pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.errors import InputError
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare, settled
from genkit.image.store import ImageStore


def write(path: Path, colour: tuple[int, int, int], side: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path, compress_level=1)


def classes(path: Path, **sizes: int) -> Path:
    """Folders of plain images: red is the class's place, green and blue the image's."""
    for label, (name, n) in enumerate(sizes.items()):
        for i in range(n):
            write(path / name / f"{i}.png", (label, i // 256, i % 256))
    return path


def read(data: Path, store: Path, **settings: object) -> ImageStore:
    return prepare(GANTrainConfig(data=str(data), size=32, **settings), store)  # type: ignore[arg-type]


def first_pixels(store: ImageStore | None) -> list[tuple[int, ...]]:
    assert store is not None
    return [tuple(pixel) for pixel in store.images[:, 0, 0].tolist()]


def test_folders_give_labels_and_batches_carry_them(tmp_path: Path) -> None:
    store = read(classes(tmp_path / "d", ant=6, bee=8, cat=5), tmp_path / "s")
    assert store.classes == ("ant", "bee", "cat")
    assert store.labels is not None
    assert store.labels.dtype == np.int64
    assert store.labels.tolist() == [0] * 6 + [1] * 8 + [2] * 5
    assert store.report.folders == {"ant": 6, "bee": 8, "cat": 5}
    assert store.report.line() == "19 images, read as 32x32 RGB (crop), in 3 classes"
    assert "labels: 8 bee, 6 ant, 5 cat" in store.report.lines()
    for step in range(3):
        pixels, labels = store.batch(batch_size=16, seed=1, step=step, flip=True)
        assert labels is not None
        assert pixels[:, 0, 0, 0].tolist() == labels.tolist()


def test_labels_go_by_choice(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", ant=6, bee=2)
    store = read(data, tmp_path / "s")
    assert (store.labels, store.classes) == (None, ())
    assert "no labels: sub-folder 'bee' has 2 images, fewer than 5" in store.report.lines()
    forced = read(data, tmp_path / "s", labels="folders")
    assert forced.labels is not None
    assert forced.labels.tolist() == [0] * 6 + [1] * 2
    assert read(data, tmp_path / "s", labels="none").labels is None
    with pytest.raises(InputError, match="--labels folders: no sub-folders"):
        read(data / "ant", tmp_path / "t", labels="folders")
    assert not (tmp_path / "t").exists()


def test_bad_files_take_no_label(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", ant=6, bee=6)
    (data / "ant" / "00.png").write_bytes(b"broken")
    labels = read(data, tmp_path / "s").labels
    assert labels is not None
    assert labels.tolist() == [0] * 6 + [1] * 6


def test_a_class_of_broken_files_is_none(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", ant=6, bee=6)
    for i in range(7):
        (data / "cat").mkdir(exist_ok=True)
        (data / "cat" / f"{i}.png").write_bytes(b"broken")
    assert read(data, tmp_path / "s").classes == ("ant", "bee")


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    store = read(classes(tmp_path / "d", ant=300, bee=200), tmp_path / "s")
    assert store.held_out is not None
    assert store.held_out.labels is not None
    assert (len(store), len(store.held_out)) == (475, 25)
    assert store.report.line() == "475 images, read as 32x32 RGB (crop), 25 held out, in 2 classes"
    assert np.bincount(store.held_out.labels).tolist() == [15, 10]
    assert store.held_out.images[:, 0, 0, 0].tolist() == store.held_out.labels.tolist()
    assert not set(first_pixels(store)) & set(first_pixels(store.held_out))
    assert len({*first_pixels(store), *first_pixels(store.held_out)}) == 500
    seen = np.concatenate([store.batch(batch_size=95, seed=0, step=i, flip=False)[0] for i in range(5)])
    assert sorted(tuple(pixel) for pixel in seen[:, 0, 0].tolist()) == sorted(first_pixels(store))
    again = read(tmp_path / "d", tmp_path / "t", seed=7)
    assert first_pixels(again.held_out) == first_pixels(store.held_out)


def test_images_to_hold_out_can_be_named(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", ant=250, bee=250)
    write(tmp_path / "v" / "ant" / "x.png", (0, 77, 1))
    write(tmp_path / "v" / "bee" / "y.png", (1, 77, 2))
    write(tmp_path / "v" / "bee" / "copy.png", (1, 0, 3))
    store = read(data, tmp_path / "s", val_data=str(tmp_path / "v"))
    assert len(store) == 500
    assert first_pixels(store.held_out) == [(0, 77, 1), (1, 77, 2)]
    assert store.held_out is not None
    assert store.held_out.labels is not None
    assert store.held_out.labels.tolist() == [0, 1]
    assert "1 held-out image is left out, because a copy of it is trained on" in store.report.lines()
    write(tmp_path / "v" / "cow" / "z.png", (2, 77, 2))
    with pytest.raises(InputError, match=r"'cow/z.png' of --val-data lies in no sub-folder that is a class"):
        read(data, tmp_path / "s", val_data=str(tmp_path / "v"))
    assert len(first_pixels(read(data, tmp_path / "s", val_data=str(tmp_path / "v"), labels="none").held_out)) == 3
    with pytest.raises(InputError, match="--val-data 'nowhere' does not exist"):
        read(data, tmp_path / "s", val_data="nowhere")


def test_changed_held_out_images_are_not_resumed(tmp_path: Path) -> None:
    config = GANTrainConfig(
        data=str(classes(tmp_path / "d", ant=6, bee=6)), val_data=str(classes(tmp_path / "v", ant=2, bee=2)), size=32
    )
    fingerprint = prepare(config, tmp_path / "s").report.fingerprint
    assert prepare(config, tmp_path / "s", expected=fingerprint).held_out is None  # all of them are copies
    os.utime(tmp_path / "v" / "ant" / "0.png", (1, 1))
    with pytest.raises(InputError, match="changed since this run began"):
        prepare(config, tmp_path / "s", expected=fingerprint)


def test_copies_are_kept_and_told_or_dropped(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", ant=20, bee=20)
    for i in range(3):
        write(data / "bee" / f"copy{i}.png", (0, 0, 5), side=64)  # another file, the same pixels
    kept = read(data, tmp_path / "s").report
    assert (kept.count, kept.copies, kept.dropped) == (43, 3, 0)
    assert any("3 images are exact copies of earlier ones" in line for line in kept.warnings(2))
    dropped = read(data, tmp_path / "s", duplicates="drop")
    assert (dropped.report.count, dropped.report.copies, dropped.report.dropped) == (40, 3, 3)
    assert "3 exact copies are left out" in dropped.report.lines()
    assert not any("copies" in line for line in dropped.report.warnings(2) if "few" not in line)
    assert dropped.labels is not None
    assert dropped.labels.tolist() == [0] * 20 + [1] * 20


def test_lost_or_cut_labels_are_read_again(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", ant=6, bee=6)
    read(data, tmp_path / "s")
    for harm in (lambda path: path.unlink(), lambda path: os.truncate(path, 8)):
        harm(tmp_path / "s" / "labels.i64")
        labels = read(data, tmp_path / "s").labels
        assert labels is not None
        assert labels.tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("grey", [True, False])
def test_a_run_that_found_its_channels_is_resumed_with_them(tmp_path: Path, grey: bool) -> None:
    for i in range(4):
        write(tmp_path / "d" / f"{i}.png", (i, i, i if grey else 9))
    config = GANTrainConfig(data=str(tmp_path / "d"), size=32)
    report = prepare(config, tmp_path / "s").report
    found = settled(config, report)
    assert (found.channels, found.flip) == (1 if grey else 3, True)
    decoded: list[int] = []
    for again in (config, found):
        prepare(again, tmp_path / "s", expected=report.fingerprint, on_progress=lambda done, _: decoded.append(done))
    assert not decoded
    other = prepare(config.replace(channels=3 if grey else 1), tmp_path / "s")
    assert other.images.shape[3] == (3 if grey else 1)
    assert prepare(config, tmp_path / "s").images.shape[3] == (1 if grey else 3)
    assert settled(config.replace(flip=False), report).flip is False


def test_small_images_are_told_where_a_smaller_size_exists(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "d" / f"{i}.png", (i, 0, 9), side=30 if i else 300)
    config = GANTrainConfig(data=str(tmp_path / "d"), size=32)
    report = prepare(config, tmp_path / "s").report
    assert report.smaller == 3
    assert not any("enlarged" in line for line in report.warnings(2))
    report = prepare(config.replace(size=64), tmp_path / "s").report
    assert any("3 images are smaller than 64x64 and are enlarged" in line for line in report.warnings(2))
    assert any("--size 32 trains faster" in line for line in report.warnings(2))


def test_four_channels(tmp_path: Path) -> None:
    for i in range(3):
        path = tmp_path / "d" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGBA", (32, 32), (i, 9, 9, 100)).save(path)
    store = read(tmp_path / "d", tmp_path / "s", channels=4)
    assert store.images[:, 5, 5].tolist() == [[i, 9, 9, 100] for i in range(3)]
    assert store.report.line() == "3 images, read as 32x32 RGBA (crop)"
    assert not any("transparency" in line for line in store.report.warnings(2))


@pytest.mark.parametrize("content", ["{}", '{"count": 3, "bad": 1, "sides": [], "classes": []}'])
def test_another_description_of_a_store_is_refused(tmp_path: Path, content: str) -> None:
    data = classes(tmp_path / "d", ant=6)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "meta.json").write_text(content)
    with pytest.raises(InputError, match=r"meta.json: not the description of an image store"):
        read(data, tmp_path / "s")

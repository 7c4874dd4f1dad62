"""Folders and zips become one store; batches are pure functions of (seed, step)."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.errors import InputError
from genkit.image.config import GANTrainConfig
from genkit.image.data import ImageReport, ImageStore, prepare
from genkit.image.sources import scan


def png(value: int, size: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read(data: Path, store: Path, **settings: object) -> ImageStore:
    return prepare(GANTrainConfig(data=str(data), size=32, **settings), store)  # type: ignore[arg-type]


def values(store: ImageStore) -> list[int]:
    """The grey level of each image."""
    return store.images[:, 0, 0, 0].tolist()


def test_a_folder_with_sub_folders(tmp_path: Path) -> None:
    data = fill(tmp_path / "d", b_PNG=png(2), a__x_png=png(1), a__y_Jpeg=png(3), c__deep__z_png=png(4), t_txt=b"no")
    store = read(data, tmp_path / "s")
    assert values(store) == [1, 3, 2, 4]  # by path; a wrong extension does not matter
    assert store.report.folders == {"a": 2, "c": 1}
    assert store.report.foreign == {".txt": 1}
    assert store.report.line() == "4 images, read as 32x32 grey (crop)"


def test_a_zip_is_read_in_place(tmp_path: Path) -> None:
    """D19: members named `..` and `/` are read, and nothing is written."""
    members = {"k/b.png": png(2), "k/a.png": png(1), "../../evil.png": png(3), "/abs.png": png(4)}
    members |= {"__MACOSX/k/._a.png": b"junk", "k/.hidden.png": b"junk", "notes.txt": b"x"}
    before = sorted(tmp_path.parent.iterdir())
    store = read(zipped(tmp_path / "d.zip", members), tmp_path / "s")
    assert sorted(values(store)) == [1, 2, 3, 4]
    assert not store.report.bad
    assert sorted(tmp_path.parent.iterdir()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.zip", "s"]


def test_zip_and_folder_give_the_same_pixels(tmp_path: Path) -> None:
    folder = read(fill(tmp_path / "d", a_png=png(1), b_png=png(2)), tmp_path / "s")
    archive = read(zipped(tmp_path / "d.zip", {"a.png": png(1), "b.png": png(2)}), tmp_path / "t")
    assert folder.report.sha256 == archive.report.sha256
    assert folder.report.fingerprint != archive.report.fingerprint


def test_links_in_a_zip_are_skipped(tmp_path: Path) -> None:
    """D19."""
    path = zipped(tmp_path / "d.zip", {"a.png": png(1), "b.png": png(2)})
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert values(read(path, tmp_path / "s")) == [1, 2]


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """D20."""
    path = zipped(tmp_path / "d.zip", {"a.png": png(1), "b.png": png(2)})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 8] |= 1  # the flag in the first entry of the directory
    path.write_bytes(raw)
    with pytest.raises(InputError, match="encrypted"):
        read(path, tmp_path / "s")


def test_a_member_that_unpacks_to_too_much_is_one_bad_file(tmp_path: Path) -> None:
    """D20."""
    path = zipped(tmp_path / "d.zip", {"a.png": png(1), "b.png": png(2), "bomb.png": png(3)})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 1 << 31)  # uncompressed size
    path.write_bytes(raw)
    store = read(path, tmp_path / "s")
    assert values(store) == [1, 2]
    assert store.report.bad[0][0] == "bomb.png"
    assert "bytes are more than" in store.report.bad[0][1]


@pytest.mark.parametrize("cut", [10, 200])
def test_a_broken_zip_is_refused(tmp_path: Path, cut: int) -> None:
    """D20."""
    path = zipped(tmp_path / "d.zip", {"a.png": png(1), "b.png": png(2)})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="readable zip"):
        read(path, tmp_path / "s")


def test_bad_files_are_left_out_and_listed(tmp_path: Path) -> None:
    """D04, D05: empty, cut, and text."""
    data = fill(tmp_path / "d", a_png=png(1), b_png=b"", c_png=png(3)[:40], d_png=png(4), e_jpg=b"text")
    store = read(data, tmp_path / "s")
    assert values(store) == [1, 4]
    assert [name for name, _ in store.report.bad] == ["b.png", "c.png", "e.jpg"]
    assert store.report.warnings(batch_size=2)[0].startswith(
        "left out 3 unreadable images (b.png: not an image of its kind"
    )


def test_on_bad_image_fail_names_the_file_and_leaves_no_store(tmp_path: Path) -> None:
    """D06."""
    data = fill(tmp_path / "d", a_png=png(1), b_png=b"", c_png=png(3))
    with pytest.raises(InputError, match=r"cannot read 'b.png'") as caught:
        read(data, tmp_path / "s", on_bad_image="fail")
    assert "--on-bad-image skip" in str(caught.value.hint)
    assert list((tmp_path / "s").iterdir()) == []


def test_nothing_there(tmp_path: Path) -> None:
    """D01, D02, D24: what is there instead is named."""
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none", tmp_path / "s")
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="no images in"):
        read(tmp_path / "d", tmp_path / "s")
    fill(tmp_path / "d", a_heic=b"x", b_heic=b"x", c_svg=b"x")
    with pytest.raises(InputError, match=r"there are 2 .heic, 1 .svg"):
        read(tmp_path / "d", tmp_path / "s")
    with pytest.raises(InputError, match="not a folder or a readable zip"):
        read(tmp_path / "d" / "a.heic", tmp_path / "s")


@pytest.mark.parametrize("second", [None, b"broken"])
def test_one_image_is_refused(tmp_path: Path, second: bytes | None) -> None:
    """D03."""
    data = fill(tmp_path / "d", a_png=png(1), **({"b_png": second} if second else {}))
    with pytest.raises(InputError, match="1 readable image of"):
        read(data, tmp_path / "s")
    assert not (tmp_path / "s" / "images.u8").exists()


def test_link_loops_and_dangling_links(tmp_path: Path) -> None:
    """D16."""
    data = fill(tmp_path / "d", a_png=png(1), sub__b_png=png(2))
    (data / "sub" / "up").symlink_to(data)
    (data / "gone.png").symlink_to(data / "nowhere.png")
    (data / "again.png").symlink_to(data / "a.png")
    store = read(data, tmp_path / "s")
    assert values(store) == [1, 1, 2]
    assert [name for name, _ in store.report.bad] == ["gone.png"]


def test_fifos_and_folders_named_like_images_do_not_hang(tmp_path: Path) -> None:
    data = fill(tmp_path / "d", a_png=png(1), dir_png__b_png=png(2))
    os.mkfifo(data / "pipe.png")
    assert values(read(data, tmp_path / "s")) == [1, 2]


def test_odd_names(tmp_path: Path) -> None:
    """D15: capitals, Unicode, and bytes that are no text."""
    data = fill(tmp_path / "d", a_png=png(1))
    (data / "Ünïcode 猫.PNG").write_bytes(png(2))
    Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe.png")).write_bytes(png(3))
    store = read(data, tmp_path / "s")
    assert sorted(values(store)) == [1, 2, 3]
    assert read(data, tmp_path / "s").report == store.report


def test_the_store_is_reused_until_the_data_or_the_settings_change(tmp_path: Path) -> None:
    data = fill(tmp_path / "d", a_png=png(1), b_png=png(2))
    config = GANTrainConfig(data=str(data), size=32)
    decoded: list[int] = []

    def count(done: int, total: int) -> None:
        decoded.append(done)

    first = prepare(config, tmp_path / "s", on_progress=count)
    assert decoded == [1, 2]
    again = prepare(config, tmp_path / "s", expected=first.report.fingerprint, on_progress=count)
    assert decoded == [1, 2]
    assert again.report == first.report
    prepare(config.replace(fit="pad"), tmp_path / "s", on_progress=count)
    assert decoded == [1, 2, 1, 2]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "c.png").write_bytes(png(3)),
        lambda d: (d / "a.png").unlink(),
        lambda d: (d / "a.png").rename(d / "z.png"),
        lambda d: os.utime(d / "a.png", (1, 1)),
    ],
    ids=["added", "removed", "renamed", "touched"],
)
def test_changed_data_is_not_resumed(tmp_path: Path, change: Callable[[Path], object], kept: bool) -> None:
    data = fill(tmp_path / "d", a_png=png(1), b_png=png(2), b2_png=png(2))
    config = GANTrainConfig(data=str(data), size=32)
    fingerprint = prepare(config, tmp_path / "s").report.fingerprint
    change(data)
    if not kept:
        shutil.rmtree(tmp_path / "s")
    with pytest.raises(InputError, match="changed since this run began") as caught:
        prepare(config, tmp_path / "s", expected=fingerprint)
    assert repr(str(data)) in caught.value.message
    assert "--force" in str(caught.value.hint)


def test_a_lost_store_of_unchanged_data_is_decoded_again(tmp_path: Path) -> None:
    config = GANTrainConfig(data=str(fill(tmp_path / "d", a_png=png(1), b_png=png(2))), size=32)
    first = prepare(config, tmp_path / "s").report
    shutil.rmtree(tmp_path / "s")
    assert prepare(config, tmp_path / "s", expected=first.fingerprint).report == first


def test_data_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    data = fill(tmp_path / "d", a_png=png(1), b_png=png(2))
    config = GANTrainConfig(data=str(data), size=32)

    def touch(done: int, total: int) -> None:
        os.utime(data / "b.png", (done, done))

    with pytest.raises(InputError, match="changed while it was read"):
        prepare(config, tmp_path / "s", on_progress=touch)
    assert not (tmp_path / "s" / "meta.json").exists()


def test_threads_are_as_many_as_cores_and_eight_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fill(tmp_path / "d", a_png=png(1), b_png=png(2))
    asked: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int) -> None:
            asked.append(workers)
            super().__init__(workers)

    monkeypatch.setattr("genkit.image.ingest.ThreadPoolExecutor", Pool)
    for cores in (3, 200):
        monkeypatch.setattr("genkit.image.ingest.cpu_count", lambda cores=cores: cores)
        read(data, tmp_path / str(cores))
    assert sorted({*asked}) == [3, 8]


def test_a_cut_store_is_decoded_again(tmp_path: Path) -> None:
    data = fill(tmp_path / "d", a_png=png(1), b_png=png(2))
    config = GANTrainConfig(data=str(data), size=32)
    first = prepare(config, tmp_path / "s").report
    os.truncate(tmp_path / "s" / "images.u8", 100)
    assert values(prepare(config, tmp_path / "s", expected=first.fingerprint)) == [1, 2]


def test_listing_does_not_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D21: 100,000 files are listed in seconds."""
    data = fill(tmp_path / "d", a_png=png(1), b_png=b"broken")
    monkeypatch.setattr("builtins.open", None)
    assert scan(data).names == ["a.png", "b.png"]


def small_store(n: int) -> ImageStore:
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    images[:, :, 0] += 100  # a left edge, to see mirroring
    return ImageStore(images, report(n))


def report(count: int, **facts: object) -> ImageReport:
    """Of `count` faultless grey images of 32 pixels, but for `facts`."""
    plain: dict[str, object] = {
        "source": "photos", "count": count, "held_out": 0, "size": 32, "channels": 1, "fit": "crop",
        "bad": (), "foreign": {}, "folders": {}, "classes": (), "unlabelled": "no sub-folders",
        "sides": ((32, 32), (32, 32), (32, 32)), "smaller": 0, "modes": {"L": count}, "transparent": 0, "grey": True,
        "copies": 0, "dropped": 0, "overlap": 0, "handed": False, "fingerprint": "", "sha256": "",
    }  # fmt: skip
    return ImageReport(**{**plain, **facts})  # type: ignore[arg-type]


def batch_ids(store: ImageStore, batch_size: int, seed: int, step: int) -> list[int]:
    return store.batch(batch_size=batch_size, seed=seed, step=step, flip=False)[0][:, 0, 1, 0].tolist()


def test_every_image_once_an_epoch() -> None:
    store = small_store(10)
    stream = [i for step in range(10) for i in batch_ids(store, 3, seed=0, step=step)]
    epochs = [stream[k : k + 10] for k in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    store = small_store(50)
    assert batch_ids(store, 8, 3, 1000) == batch_ids(small_store(50), 8, 3, 1000)
    assert batch_ids(store, 8, 3, 1000) != batch_ids(store, 8, 4, 1000)
    assert batch_ids(store, 8, 3, 1000) != batch_ids(store, 8, 3, 1001)


def test_a_set_smaller_than_the_batch_repeats() -> None:
    ids = batch_ids(small_store(3), 8, 0, 0)
    assert sorted(ids[:3]) == sorted(ids[3:6]) == [0, 1, 2]


def test_flips_half_of_the_images_and_not_the_store() -> None:
    store = small_store(50)
    before = store.images.copy()
    first, labels = store.batch(batch_size=50, seed=0, step=0, flip=True)
    assert labels is None
    mirrored = first[:, 0, 3, 0] >= 100
    assert 10 < mirrored.sum() < 40
    assert np.array_equal(store.images, before)
    assert np.array_equal(first, store.batch(batch_size=50, seed=0, step=0, flip=True)[0])

"""What `genkit train-gan` says about its images, and takes from them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
SMALL = ["train-gan", "--size", "32", "--ngf", "4", "--ndf", "4", "--nz", "8", "--batch-size", "4", "--steps", "2"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of grey images, a broken file and one that no one reads."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 50), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    (tmp_path / "photos" / "cat" / "broken.jpg").write_bytes(b"broken")
    (tmp_path / "photos" / "cat" / "phone.heic").write_bytes(b"heic")
    return tmp_path


def test_the_plan_holds_the_whole_report(genkit: Run, photos: Path) -> None:
    plan = json.loads(genkit(*SMALL, "--data", "photos", "--dry-run", "--json").out)
    report = plan["report"]
    assert plan["data"] == "12 images, read as 32x32 grey (crop), in 2 classes"
    assert report["bad"] == ["cat/broken.jpg: not an image of its kind"]
    assert report["folders"] == {"cat": 6, "dog": 6}
    assert report["foreign"] == {".heic": 1}
    assert report["sides"] == ["50x40", "50x40", "50x40"]
    assert "report.modes.L: 12\n" in genkit(*SMALL, "--data", "photos", "--dry-run").text


def test_a_run_tells_the_report_in_a_few_lines_and_keeps_it(genkit: Run, photos: Path) -> None:
    done = genkit(*SMALL, "--data", "photos", "--out", "run")
    assert done.code == 0
    for line in (
        "12 images, read as 32x32 grey (crop), in 2 classes",
        "files: 50x40 to 50x40 pixels, median 50x40; 12 L",
        "labels: 6 cat, 6 dog",
        "left out 1 unreadable image (cat/broken.jpg: not an image of its kind)",
    ):
        assert line in done.err.splitlines()
    meta = json.loads((photos / "run/data/meta.json").read_text())
    assert (meta["count"], meta["channels"], meta["classes"]) == (12, 1, ["cat", "dog"])
    assert genkit("train-gan", "--resume", "--out", "run", "--steps", "3").code == 0


def test_file_names_that_are_no_text_or_would_act_on_a_terminal(genkit: Run, photos: Path) -> None:
    try:
        (photos / os.fsdecode(b"photos/cat/\xff\x1b[31m\n.png")).write_bytes(b"broken")
    except OSError:
        pytest.skip("this file system takes text only")
    plan = json.loads(genkit(*SMALL, "--data", "photos", "--dry-run", "--json").out.decode())
    assert plan["report"]["bad"][-1] == "cat/\udcff\x1b[31m\n.png: not an image of its kind"
    assert "\x1b" not in genkit(*SMALL, "--data", "photos", "--dry-run").text
    done = genkit(*SMALL, "--data", "photos", "--out", "run", "--json")
    assert any("\udcff\x1b" in warning for warning in json.loads(done.out)["warnings"])
    assert "\x1b" not in done.err
    assert "cat/\\udcff\\x1b[31m .png: not an image" in done.err


def test_images_that_take_most_of_the_budget_to_read(genkit: Run, photos: Path) -> None:
    spent = "seconds of --budget, which leaves little to train: --resume with a longer one does not read them again"
    flags = [*SMALL[:-2], "--data", "photos", "--out", "run"]
    assert spent in genkit(*flags, "--budget", "0.01s").err
    assert spent not in genkit("train-gan", "--resume", "--out", "run", "--steps", "3").err


def test_a_known_data_set_and_images_to_hold_out(genkit: Run, photos: Path) -> None:
    for split, n in (("train", 20), ("t10k", 10)):
        images, labels = np.random.default_rng(n).integers(0, 256, (n, 28, 28), np.uint8), np.arange(n) % 2
        header = struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28)
        (photos / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (photos / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4BI", 0, 0, 8, 1, n) + labels.astype(np.uint8).tobytes()
        )
    flags = ["--data", "torchvision:MNIST@.", "--val-data", "torchvision:MNIST:test@."]
    plan = json.loads(genkit(*SMALL, *flags, "--dry-run", "--json").out)
    assert plan["data"] == "20 images, read as 32x32 grey (crop), 10 held out, in 2 classes"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--data", "torchvision:Imagenet"], 2, "genkit reads MNIST"),
        (["--data", "torchvision:MNIST"], 3, "there is no train-images-idx3-ubyte"),
        (["--data", "photos", "--val-data", "none"], 3, "--val-data 'none' does not exist"),
        (["--data", "photos", "--on-bad-image", "fail"], 3, "cannot read 'cat/broken.jpg'"),
        (["--data", "photos/cat", "--labels", "folders"], 3, "--labels folders: no sub-folders"),
        (["--data", "photos", "--channels", "2"], 2, "--channels 2 is not 1, 3 or 4"),
    ],
)
def test_refused(genkit: Run, photos: Path, flags: list[str], code: int, message: str) -> None:
    done = genkit(*SMALL, *flags)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err
    assert not (photos / "runs/gan/genkit.json").exists()

"""`genkit eval` of image models."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.image import features, inception

Run = Callable[..., Any]
needs_weights = pytest.mark.skipif(not features.available(), reason="needs the extra metrics")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Inception file."""
    monkeypatch.setattr(inception, "find", lambda: None)


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with the weights is not installed."""
    monkeypatch.setattr(features, "find_spec", lambda name: None)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 40, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"photos/{i:02}.png")
    return "photos"


@needs_weights
def test_every_figure_stands_beside_its_floor(genkit: Run, tiny_image: Path, photos: str) -> None:
    done = genkit("eval", str(tiny_image), "--data", photos, "--json")
    found = json.loads(done.out)
    names = [f"{name}_efflite0" for name in ("fd", "kd", "precision", "recall")]
    assert list(found["metrics"]) == [*names, "swd", "diversity", "nearest"]
    assert found["metrics"]["kd_efflite0"]["model"] > 5 * abs(found["metrics"]["kd_efflite0"]["data"])
    assert (found["samples"], found["images"], found["seed"], found["engine"]) == (10, 20, 0, "onnx")
    assert (found["model"], found["data"], found["labels"]) == (str(tiny_image), ["photos"], None)
    assert done.err == ""
    lines = genkit("eval", str(tiny_image), "--data", photos).text.splitlines()
    assert lines[0].split() == ["model", "floor"]
    assert [line.split()[0] for line in lines[1:8]] == [
        "FD(efflite0)",
        "KD(efflite0)",
        "precision(efflite0)",
        "recall(efflite0)",
        "SWD",
        "diversity",
        "nearest",
    ]
    assert lines[2].split()[1:] == [f"{found['metrics']['kd_efflite0'][side]:.4g}" for side in ("model", "data")]
    assert lines[8:] == [
        "compared       10 samples, seeds 0 to 9, with 10 of 20 images",
        "floor          10 other images with the same 10; diversity and nearest: of the images themselves",
        "images         32x32 RGB, lossless; data: crop, Lanczos",
        f"model          {tiny_image} on cpu in fp32 by onnx",
    ]
    assert not any("FID" in line or "KID" in line for line in lines)


def test_without_the_package_the_others_are_printed(
    genkit: Run, tiny_image: Path, photos: str, without_network: None
) -> None:
    done = genkit("eval", str(tiny_image), "--data", photos, "--json", "--n", "5", "--seed", "3")
    found = json.loads(done.out)
    assert list(found["metrics"]) == ["swd", "diversity", "nearest"]
    assert (found["samples"], found["seed"]) == (5, 3)
    assert done.err == "FD, KD, precision and recall need a package: pip install 'genkit-cli[metrics]'\n"
    assert genkit("eval", str(tiny_image), "--data", photos, "-q").err == ""
    assert "genkit eval --fetch-inception" in genkit("eval", str(tiny_image), "--data", photos, "-v").err


def test_the_images_are_those_of_genkit_image(
    genkit: Run, tiny_image: Path, photos: str, without_network: None, tmp_path: Path
) -> None:
    """A model against its own images: each is the nearest of all to itself."""
    genkit("image", "-m", str(tiny_image), "--seeds", "7-16", "--each", "--out", "own")
    found = json.loads(genkit("eval", str(tiny_image), "--data", "own", "--seed", "7", "--json").out)
    assert found["metrics"]["nearest"]["model"] == 0
    found = json.loads(genkit("eval", str(tiny_image), "--data", "own", "--seed", "99", "--json").out)
    assert found["metrics"]["nearest"]["model"] > 0
    torch = json.loads(
        genkit("eval", str(tiny_image), "--data", "own", "--seed", "99", "--json", "--engine", "torch").out
    )
    assert torch["engine"] == "torch"
    assert torch["metrics"]["swd"]["model"] == pytest.approx(found["metrics"]["swd"]["model"], rel=1e-3)


def test_broken_files_are_told_and_left_out(
    genkit: Run, tiny_image: Path, photos: str, without_network: None, tmp_path: Path
) -> None:
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "photos/readme.txt").write_text("not an image")
    done = genkit("eval", str(tiny_image), "--data", photos, "--json")
    found = json.loads(done.out)
    assert found["images"] == 20
    assert [name for name, _ in found["bad"]] == ["broken.png"]
    assert "left out 1 unreadable image (broken.png: " in done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--data", "nowhere"], 3, "'nowhere' does not exist"),
        (["--data", "empty"], 3, "no images in"),
        (["--data", "few"], 3, "3 images in few are too few to compare with (give 8 or more)"),
        (["--data", "one"], 3, "1 readable image"),
        (["--data", "photos", "--data", "few"], 2, "an image model is compared with one --data"),
        (["--data", "photos", "--stride", "3"], 2, "--stride is not for image models"),
        (["--data", "photos", "--text-field", "x"], 2, "--text-field is not for image models"),
        (["--data", "photos", "--n", "3"], 2, "--n 3 is out of range"),
        (["--data", "photos", "--fit", "zoom"], 2, "--fit 'zoom' is not one of crop, pad, stretch"),
        (["--data", "photos", "--engine", "llamacpp"], 2, "is not an engine for image"),
        (["--data", "photos", "--inception", "few/0.png"], 3, "few/0.png is not the standard Inception file"),
        (["--data", "photos", "--inception", "none.pth"], 3, "cannot read none.pth"),
        ([], 2, "--data is missing"),
    ],
)
def test_refusals(
    genkit: Run, tiny_image: Path, photos: str, tmp_path: Path, args: list[str], code: int, message: str
) -> None:
    for name, n in (("empty", 0), ("one", 1), ("few", 3)):
        (tmp_path / name).mkdir()
        for i in range(n):
            Image.new("RGB", (32, 32), (i, 9, 9)).save(tmp_path / f"{name}/{i}.png")
    done = genkit("eval", str(tiny_image), *args)
    assert (done.code, done.out) == (code, b""), done.err
    assert message in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_image_settings_are_not_for_text_models(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("The cat.")
    for flag, value in (("--n", "9"), ("--seed", "1"), ("--fit", "pad"), ("--inception", "x")):
        done = genkit("eval", str(tiny_text), "--data", "book.txt", flag, value)
        assert (done.code, done.out) == (2, b"")
        assert done.err == f"error: {flag} is not for text models (see genkit eval --help)\n"


def test_the_inception_file_is_downloaded_when_asked_for(
    genkit: Run, tiny_image: Path, photos: str, monkeypatch: pytest.MonkeyPatch, without_network: None
) -> None:
    asked: list[str] = []

    def fetch(on_progress: Callable[[float, int], None]) -> Path:
        asked.append("once")
        on_progress(1.0, 5)
        return Path("there.pth")

    monkeypatch.setattr(inception, "fetch", fetch)
    assert genkit("eval", str(tiny_image), "--data", photos).code == 0
    assert asked == []
    assert genkit("eval", "--fetch-inception").text == "there.pth\n"
    assert json.loads(genkit("eval", "--fetch-inception", "--json").out) == {"inception": "there.pth"}
    done = genkit("eval", str(tiny_image), "--data", photos, "--fetch-inception")
    assert (done.code, len(asked)) == (0, 3)
    assert done.text.startswith(" ")  # the table, and no path
    assert genkit("eval").err == "error: MODEL is missing (see genkit eval --help)\n"


def test_an_interruption_leaves_no_result(tiny_image: Path, tmp_path: Path, start_genkit: Callable[..., Any]) -> None:
    (tmp_path / "many").mkdir()
    for i in range(8):
        Image.new("RGB", (32, 32), (i, 9, 9)).save(tmp_path / f"many/{i}.png")
    for i in range(6000):  # the same few again and again, which takes a while to read
        (tmp_path / f"many/more{i}.png").hardlink_to(tmp_path / "many/0.png")
    process = start_genkit("eval", str(tiny_image), "--data", "many", "-v")
    assert "on cpu in fp32 by onnx" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("error: interrupted\n")


@needs_weights
def test_the_bundled_kittens_are_nearer_to_kittens_than_to_noise(genkit: Run, photos: str) -> None:
    """Against their own images of other seeds a model is at the floor, against noise it is not."""
    genkit("image", "-m", "kittens", "--seeds", "100-149", "--each", "--out", "own")
    own, noise = (
        json.loads(genkit("eval", "kittens", "--data", data, "--json", "--n", "25").out)["metrics"]["kd_efflite0"]
        for data in ("own", photos)
    )
    assert abs(own["model"]) < 0.05 < noise["model"]

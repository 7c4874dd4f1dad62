"""`genkit image --project`: what is written, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels alone: what the package `metrics` adds is tested without the command line."""
    monkeypatch.setattr("genkit.image.features.available", lambda: False)


@pytest.fixture
def project(genkit: Run, tiny_image: Path, tmp_path: Path) -> Run:
    Image.new("RGB", (50, 40), (200, 100, 50)).save(tmp_path / "me.jpg")
    return lambda *args: genkit("image", "-m", str(tiny_image), "--steps", "3", *args)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return dict(held)


def test_the_latent_and_both_pictures_are_written(project: Run, genkit: Run, tmp_path: Path) -> None:
    done = project("--project", "me.jpg")
    assert (done.code, done.text) == (0, "genkit-me.npz\ngenkit-me.png\n")
    assert re.fullmatch(r"distance 0\.\d{4}\n", done.err)
    held = arrays(tmp_path / "genkit-me.npz")
    assert held["latents"].shape == (1, 8)
    assert held["images"].shape == (1, 32, 32, 3)
    note = json.loads(genkit("info", "genkit-me.npz", "--json").out)
    assert (note["project"], note["steps"]) == ("me.jpg", "3")
    assert done.err == f"distance {note['distance']}\n"
    with Image.open(tmp_path / "genkit-me.png") as picture:
        assert picture.size == (2 + 2 * 34, 2 + 34)
        assert picture.getpixel((10, 10)) == pytest.approx((200, 100, 50), abs=2)
        assert np.array_equal(np.asarray(picture)[2:34, 36:68], held["images"][0])


def test_what_was_found_is_drawn_from(project: Run, genkit: Run, tiny_image: Path, tmp_path: Path) -> None:
    assert project("--project", "me.jpg", "--out", "me.npz").text == "me.npz\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["me.jpg", "me.npz"]
    genkit("image", "-m", str(tiny_image), "--latent", "me.npz", "--out", "again.npz")
    found, again = arrays(tmp_path / "me.npz"), arrays(tmp_path / "again.npz")
    assert np.array_equal(found["latents"], again["latents"])
    assert np.abs(found["images"].astype(int) - again["images"]).max() <= 1  # torch and ONNX Runtime
    assert genkit("image", "-m", str(tiny_image), "--interpolate", "0,me.npz", "--frames", "2").code == 0


def test_same_seed_same_latent(project: Run, tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "5000")):
        project("--project", "me.jpg", "--seed", seed, "--out", f"{name}.npz")
    a, b, c = (arrays(tmp_path / f"{name}.npz")["latents"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_what_cannot_be_written_fails_before_the_search(project: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkit.pipeline.ImagePipeline.project", lambda *_, **__: 1 // 0)
    done = project("--project", "me.jpg", "--out", "no/a.npz")
    assert (done.code, done.err) == (
        4,
        "error: cannot write no/a.npz: No such file or directory (create the folder first)\n",
    )


def test_json_and_standard_output(project: Run, tmp_path: Path) -> None:
    facts = json.loads(project("--project", "me.jpg", "--out", "a.webp", "--json").out)
    assert (facts["files"], facts["seeds"], facts["size"]) == (["a.webp"], [0], 32)
    assert 0 < facts["distance"] < 1
    done = project("--project", "me.jpg", "--out", "-")
    assert done.out.startswith(b"PK\x03\x04")
    assert project("--project", "me.jpg", "--out", "-", "--format", "png").out.startswith(b"\x89PNG")
    assert project("--project", "me.jpg", "--format", "jpg").text == "genkit-me.jpg\n"


def test_classes(project: Run, genkit: Run, tiny_classes: Path, tmp_path: Path) -> None:
    draw = ("image", "-m", str(tiny_classes), "--steps", "2", "--project", "me.jpg")
    done = genkit(*draw, "--class", "pear", "--out", "a.npz")
    assert done.code == 0
    assert done.err.endswith(", class pear\n")
    assert arrays(tmp_path / "a.npz")["labels"].tolist() == [2]
    facts = json.loads(genkit(*draw, "--out", "b.npz", "--json").out)
    label = arrays(tmp_path / "b.npz")["labels"].tolist()[0]
    assert facts["labels"] == [("apple", "cherry", "pear")[label]]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--project", "no.jpg"], 3, "cannot read no.jpg: No such file or directory"),
        (["--project", "text.jpg"], 3, "--project text.jpg is not an image that genkit reads"),
        (["--project", "."], 3, ". is not a file"),
        (["--project", "me.jpg", "--steps", "0"], 2, "--steps 0 is out of range"),
        (["--project", "me.jpg", "--n", "3"], 2, "--project finds one latent, and --n says what is drawn"),
        (["--project", "me.jpg", "--latent", "a.npz"], 2, "--project finds one latent, and --latent says"),
        (["--project", "me.jpg", "--interpolate", "0,1"], 2, "--project finds one latent, and --interpolate says"),
        (["--project", "me.jpg", "--each"], 2, "--project finds one latent, and --each says"),
        (["--project", "me.jpg", "--engine", "onnx"], 2, "--project needs gradients, which --engine onnx has not"),
        (["--project", "me.jpg", "--engine", "onxx"], 2, "--engine 'onxx' is not an engine"),
        (["--project", "me.jpg", "--class", "a,b"], 2, "--class a,b: a projection keeps to one class"),
        (["--project", "me.jpg", "--class", "a"], 2, "class 'a': the model has no classes"),
        (["--project", "me.jpg", "--out", "a.gif"], 2, "gif holds an animation"),
        (["--project", "me.jpg", "--out", "no/a.npz"], 4, "cannot write no/a.npz: No such file or directory"),
        (["--project", "me.jpg", "--out", "me.jpg", "--no-clobber"], 4, "me.jpg exists"),
    ],
)
def test_refusals(project: Run, tmp_path: Path, args: list[str], code: int, message: str) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    done = project("-q", *args)
    assert (done.code, done.out) == (code, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["me.jpg", "text.jpg"]


def test_steps_without_a_projection(genkit: Run, tiny_image: Path) -> None:
    done = genkit("image", "-m", str(tiny_image), "--steps", "3")
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "error: --steps says how long a projection takes, and there is none (add --project photo.png)\n"
    )

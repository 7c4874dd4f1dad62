"""`genkit image --class`: which classes are drawn, how they lie on the sheet, and what the files remember."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.image.noise import latents

Run = Callable[..., Any]


@pytest.fixture
def draw(genkit: Run, tiny_classes: Path) -> Run:
    return lambda *args: genkit("image", "-m", str(tiny_classes), *args)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return dict(held)


def test_so_many_of_each(draw: Run, tmp_path: Path) -> None:
    done = draw("--class", "pear=2,apple=1", "--seed", "5", "--out", "a.npz")
    assert (done.code, done.text, done.err) == (0, "a.npz\n", "")
    held = arrays(tmp_path / "a.npz")
    assert held["labels"].tolist() == [2, 2, 0]
    assert held["labels"].dtype == np.int64
    assert held["seeds"].tolist() == [5, 6, 7]
    assert np.array_equal(held["latents"], [latents(seed, 8) for seed in (5, 6, 7)])
    assert held["images"].shape == (3, 32, 32, 4)


@pytest.mark.parametrize(
    ("args", "labels"),
    [
        (["--class", "cherry", "--n", "3"], [1, 1, 1]),
        (["--class", "pear,0", "--n", "3"], [2, 2, 0]),
        (["--class", "pear=1,0=2", "--n", "3"], [2, 0, 0]),
        (["--class", "pear"], [2] * 16),
    ],
)
def test_shares_of_n(draw: Run, tmp_path: Path, args: list[str], labels: list[int]) -> None:
    assert draw("--seed", "5", *args, "--out", "a.npz").code == 0
    assert arrays(tmp_path / "a.npz")["labels"].tolist() == labels


def test_named_seeds_have_classes_too(draw: Run, tmp_path: Path) -> None:
    draw("--seeds", "9,4,7", "--class", "pear=1,apple=2", "--out", "a.npz")
    held = arrays(tmp_path / "a.npz")
    assert (held["seeds"].tolist(), held["labels"].tolist()) == ([9, 4, 7], [2, 0, 0])


def test_by_default_seeds_take_the_classes_in_turn_and_lie_class_by_class(draw: Run, tmp_path: Path) -> None:
    draw("--seed", "4", "--n", "5", "--out", "a.npz")
    held = arrays(tmp_path / "a.npz")
    assert held["seeds"].tolist() == [6, 4, 7, 5, 8]
    assert held["labels"].tolist() == [0, 1, 1, 2, 2]


def test_a_picture_follows_from_its_seed_and_class_alone(draw: Run, tmp_path: Path) -> None:
    draw("--class", "apple=3,pear=3", "--seed", "0", "--out", "all.npz")
    draw("--class", "pear", "--seeds", "4", "--out", "one.npz")
    draw("--class", "apple", "--seeds", "4", "--out", "other.npz")
    together, alone, other = (arrays(tmp_path / f"{name}.npz")["images"] for name in ("all", "one", "other"))
    assert np.array_equal(together[4], alone[0])
    assert not np.array_equal(together[4], other[0])


def test_engines_agree(draw: Run, tmp_path: Path) -> None:
    for engine in ("onnx", "torch"):
        assert draw("--seeds", "0-8", "--engine", engine, "--out", f"{engine}.npz").code == 0
    ours, theirs = (arrays(tmp_path / f"{engine}.npz")["images"].astype(int) for engine in ("onnx", "torch"))
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("args", "size"),
    [
        (["--class", "apple=5,pear=3"], (5, 2)),  # a row each
        (["--class", "apple=5,pear=3", "--columns", "3"], (3, 3)),  # two rows and one
        (["--class", "apple=6", "--columns", "2"], (2, 3)),
        (["--n", "12"], (4, 3)),
        (["--class", "apple=1,cherry=1,pear=1"], (2, 2)),  # as square as can be
    ],
)
def test_classes_have_rows_of_their_own(draw: Run, tmp_path: Path, args: list[str], size: tuple[int, int]) -> None:
    assert draw("--seed", "0", *args, "--out", "a.png").code == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == tuple(2 + 34 * count for count in size)


def test_sheets_of_transparent_pictures_are_transparent(draw: Run, tmp_path: Path) -> None:
    draw("--class", "apple=2,pear=1", "--seed", "0", "--out", "a.npz")
    pictures = arrays(tmp_path / "a.npz")["images"]
    for form in ("png", "webp"):
        draw("--class", "apple=2,pear=1", "--seed", "0", "--out", f"a.{form}")
        with Image.open(tmp_path / f"a.{form}") as image:
            sheet = np.asarray(image)
        assert sheet.shape == (2 + 2 * 34, 2 + 2 * 34, 4)
        assert np.array_equal(sheet[2:34, 2:34], pictures[0])
        assert np.array_equal(sheet[2:34, 36:68], pictures[1])
        assert np.array_equal(sheet[36:68, 2:34], pictures[2])
        assert not sheet[:2, :, 3].any()
        assert not sheet[36:, 36:, 3].any()


@pytest.mark.parametrize(("form", "kind"), [("jpg", "RGB"), ("gif", "P")])
def test_formats_without_transparency_lie_on_white(draw: Run, tmp_path: Path, form: str, kind: str) -> None:
    walk = ["--interpolate", "0,1", "--frames", "2"] if form == "gif" else ["--seeds", "0,3,6"]
    done = draw(*walk, "--out", f"a.{form}")
    assert (done.code, done.text) == (0, f"a.{form}\n")
    assert done.err == f"{form} has no transparency: the images lie on white\n"
    with Image.open(tmp_path / f"a.{form}") as image:
        assert image.mode == kind
        if form == "jpg":
            assert np.asarray(image)[-10:, -10:].min() > 250  # an empty place


def test_a_file_for_each_has_its_class_in_its_name(draw: Run, genkit: Run, tmp_path: Path) -> None:
    done = draw("--class", "pear=1,apple=1", "--seed", "7", "--each", "--out", "each")
    assert done.text == "each/seed00007-pear.png\neach/seed00008-apple.png\n"
    note = json.loads(genkit("info", "each/seed00008-apple.png", "--json").out)
    assert (note["seed"], note["class"]) == ("8", "apple")
    assert "seeds" not in note


def test_a_name_that_no_file_can_have(genkit: Run, tiny_classes: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_classes / "config.json").read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"classes": ["../../a", "b c", "ok"]}))
    (tmp_path / "model/model.safetensors").write_bytes((tiny_classes / "model.safetensors").read_bytes())
    done = genkit("image", "-m", "model", "--seeds", "0-2", "--each", "--out", "each")
    assert done.text.split() == [f"each/seed0000{i}-{name}.png" for i, name in enumerate(("class0", "class1", "ok"))]


def test_files_remember_their_classes(draw: Run, genkit: Run, tiny_classes: Path, tmp_path: Path) -> None:
    for form in ("png", "webp", "jpg", "npz"):
        draw("--class", "pear=1,apple=2", "--seed", "7", "--out", f"a.{form}", "-q")
        note = json.loads(genkit("info", f"a.{form}", "--json").out)
        assert (note["class"], note["seeds"]) == ("pear=1,apple=2", "7-9")
    draw("--seeds", note["seeds"], "--class", note["class"], "--out", "b.png")
    assert (tmp_path / "a.png").read_bytes() != b""
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as again:
        assert np.array_equal(np.asarray(first), np.asarray(again))
    draw("--seeds", "7-9", "--out", "c.png")
    assert json.loads(genkit("info", "c.png", "--json").out)["class"] == "seed modulo 3"


def test_json_names_the_class_of_each(draw: Run) -> None:
    facts = json.loads(draw("--class", "pear=1,0=2", "--seed", "7", "--out", "a.png", "--json").out)
    assert (facts["seeds"], facts["labels"], facts["channels"]) == ([7, 8, 9], ["pear", "apple", "apple"], 4)


def test_info_of_the_model_names_its_classes(genkit: Run, tiny_classes: Path) -> None:
    assert "config.classes: apple, cherry, pear" in genkit("info", str(tiny_classes)).text.splitlines()
    assert json.loads(genkit("info", str(tiny_classes), "--json").out)["makes"] == "image"


def test_a_walk_keeps_to_one_class(draw: Run, tmp_path: Path) -> None:
    draw("--interpolate", "4,5", "--frames", "4", "--out", "a.npz")
    draw("--interpolate", "4,5", "--frames", "4", "--class", "pear", "--out", "b.npz")
    assert arrays(tmp_path / "a.npz")["labels"].tolist() == [1] * 4  # of the first seed
    assert arrays(tmp_path / "b.npz")["labels"].tolist() == [2] * 4
    draw("--seeds", "4,5", "--class", "pear", "--out", "c.npz")
    assert np.array_equal(arrays(tmp_path / "b.npz")["images"][::2], arrays(tmp_path / "c.npz")["images"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--class", "appel"], "the model has no class 'appel' (did you mean 'apple'?)"),
        (["--class", "3"], "the model has no class '3' (there is apple, cherry, pear)"),
        (["--class", ""], "--class '' is not a list of classes (write cat=8,dog=8 or cat,dog)"),
        (["--class", "apple=2,pear"], "--class 'apple=2,pear' has numbers for some classes only"),
        (["--class", "apple=2", "--n", "3"], "--class asks for 2 images, and 3 are to be drawn"),
        (["--class", "apple=2", "--seeds", "0-2"], "--class asks for 2 images, and 3 are to be drawn"),
        (["--class", "apple,pear", "--interpolate", "0,1"], "--class apple,pear: a walk keeps to one class"),
        (["--class", "apple=2", "--interpolate", "0,1"], "--class apple=2: a walk keeps to one class"),
        (["--columns", "0"], "--columns 0 is out of range"),
        (["--columns", "2", "--each"], "--columns says how a grid looks, and --each makes none"),
        (["--columns", "2", "--interpolate", "0,1"], "--columns says how a grid looks, and --interpolate"),
    ],
)
def test_refusals(draw: Run, tmp_path: Path, args: list[str], message: str) -> None:
    done = draw("-q", *args)
    assert (done.code, done.out) == (2, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert [*tmp_path.iterdir()] == []


def test_a_model_without_classes(genkit: Run, tiny_image: Path, tmp_path: Path) -> None:
    done = genkit("image", "-m", str(tiny_image), "--class", "cat")
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "error: class 'cat': the model has no classes (leave it out, or use a model trained on folders)\n"
    )
    assert [*tmp_path.iterdir()] == []

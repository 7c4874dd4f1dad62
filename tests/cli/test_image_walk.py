"""`genkit image --interpolate` and `--truncation`, and what the files remember."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.image.noise import latents

Run = Callable[..., Any]


@pytest.fixture
def draw(genkit: Run, tiny_image: Path) -> Run:
    return lambda *args: genkit("image", "-m", str(tiny_image), *args)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as held:
        return dict(held)


def test_a_walk_passes_through_the_pictures_of_its_seeds(draw: Run, tmp_path: Path) -> None:
    done = draw("--interpolate", "3,8,1", "--frames", "12", "--out", "walk.npz")
    assert (done.code, done.text, done.err) == (0, "walk.npz\n", "")
    draw("--seeds", "3,8,1", "--out", "stops.npz")
    walk, stops = arrays(tmp_path / "walk.npz"), arrays(tmp_path / "stops.npz")
    assert walk["images"].shape == (12, 32, 32, 3)
    assert walk["latents"].shape == (12, 8)
    assert walk["seeds"].tolist() == [3] * 4 + [8] * 4 + [1] * 4
    assert np.array_equal(walk["images"][::4], stops["images"])  # bit for bit
    assert np.array_equal(walk["latents"][::4], stops["latents"])
    assert len(np.unique(walk["latents"], axis=0)) == 12


def test_without_loop_it_ends_at_the_last_seed(draw: Run, tmp_path: Path) -> None:
    draw("--interpolate", "3,8", "--frames", "5", "--no-loop", "--out", "a.npz")
    assert np.array_equal(arrays(tmp_path / "a.npz")["latents"][[0, 4]], [latents(3, 8), latents(8, 8)])


@pytest.mark.parametrize("form", ["gif", "webp", "mp4"])
def test_animations(draw: Run, genkit: Run, tmp_path: Path, form: str) -> None:
    args = ["--interpolate", "3,8", "--frames", "6", "--fps", "10", "--truncation", "0.75"]
    assert draw(*args, "--out", f"a.{form}").text == f"a.{form}\n"
    data = (tmp_path / f"a.{form}").read_bytes()
    assert draw(*args, "--out", "-", "--format", form).out == data  # the same bytes again
    if form != "mp4":
        with Image.open(io.BytesIO(data)) as image:
            assert (image.n_frames, image.size) == (6, (32, 32))
    note = json.loads(genkit("info", f"a.{form}", "--json").out)
    kept = {key: note[key] for key in ("interpolate", "frames", "fps", "loop", "truncation")}
    assert kept == {"interpolate": "3,8", "frames": "6", "fps": "10", "loop": "yes", "truncation": "0.75"}
    assert len(note["model_sha256"]) == 64


def test_the_default_is_a_gif(draw: Run, tmp_path: Path) -> None:
    assert draw("--interpolate", "3,8", "--frames", "2").text == "genkit-3.gif\n"
    assert (tmp_path / "genkit-3.gif").read_bytes().startswith(b"GIF89a")


def test_json_of_a_walk(draw: Run) -> None:
    facts = json.loads(draw("--interpolate", "3,8", "--frames", "4", "--out", "a.gif", "--json").out)
    assert (facts["seeds"], facts["files"], facts["frames"]) == ([3, 8], ["a.gif"], "4")


def test_truncation_draws_from_truncated_latents(draw: Run, genkit: Run, tmp_path: Path) -> None:
    draw("--seeds", "0-4", "--truncation", "0.5", "--out", "a.npz")
    held = arrays(tmp_path / "a.npz")
    assert np.array_equal(held["latents"], [latents(seed, 8, 0.5) for seed in range(5)])
    draw("--seeds", "0-4", "--out", "b.npz")
    assert not np.array_equal(held["images"], arrays(tmp_path / "b.npz")["images"])
    for name in ("a.png", "a.webp", "a.jpg"):
        draw("--seeds", "2", "--truncation", "0.5", "--out", name)
        assert json.loads(genkit("info", name, "--json").out)["truncation"] == "0.5"
    assert "truncation" not in json.loads(genkit("info", "b.npz", "--json").out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--interpolate", "3"], "--interpolate 3 is one image"),
        (["--interpolate", "3,x"], "--interpolate '3,x' is not a list of seeds or .npz files"),
        (["--interpolate", "0-9", "--frames", "9"], "--interpolate names 10 seeds for 9 frames"),
        (["--interpolate", "0,1", "--n", "4"], "--interpolate contradicts --n, --seed, --seeds, --latent and --each"),
        (["--interpolate", "0,1", "--seed", "4"], "--interpolate contradicts"),
        (["--interpolate", "0,1", "--seeds", "4"], "--interpolate contradicts"),
        (["--interpolate", "0,1", "--each"], "--interpolate contradicts"),
        (["--interpolate", "0,1", "--out", "a.png"], "--interpolate makes an animation, which no png is"),
        (["--interpolate", "0,1", "--format", "jpg"], "--interpolate makes an animation, which no jpg is"),
        (["--interpolate", "0,1", "--fps", "60"], "--fps 60: a gif shows at most 50 frames a second"),
        (["--interpolate", "0,1", "--fps", "0"], "--fps 0 is out of range"),
        (["--interpolate", "0,1", "--frames", "1"], "--frames 1 is out of range"),
        (["--frames", "9"], "--frames says how a walk goes, and there is none"),
        (["--no-loop", "--fps", "9"], "--fps says how a walk goes, and there is none"),
        (["--out", "a.gif"], "gif holds an animation"),
        (["--format", "mp4"], "mp4 holds an animation"),
        (["--each", "--format", "gif"], "gif holds an animation"),
        (["--truncation", "0"], "--truncation 0.0 is out of range"),
        (["--truncation", "nan"], "--truncation nan is out of range"),
    ],
)
def test_refusals(draw: Run, tmp_path: Path, args: list[str], message: str) -> None:
    done = draw("-q", *args)
    assert (done.code, done.out) == (2, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert [*tmp_path.iterdir()] == []


def test_mp4_without_its_package(draw: Run, genkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw("--interpolate", "3,8", "--frames", "2", "--out", "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    for done in (draw("--interpolate", "3,8", "--out", "b.mp4"), genkit("info", "a.mp4")):
        assert done.code == 2
        assert done.err == "error: mp4 needs the package av (pip install 'genkit-cli[video]', or use a .webp)\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]

"""`genkit image --latent`, `--mix`, and walks through latents in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genkit.image.noise import latents
from genkit.image.walk import slerp

Run = Callable[..., Any]


@pytest.fixture
def draw(genkit: Run, tiny_image: Path) -> Run:
    return lambda *args: genkit("image", "-m", str(tiny_image), *args)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return dict(held)


def test_what_was_drawn_is_drawn_again(draw: Run, tmp_path: Path) -> None:
    draw("--seeds", "3-6", "--out", "a.npz")
    done = draw("--latent", "a.npz", "--out", "b.npz")
    assert (done.code, done.text, done.err) == (0, "b.npz\n", "")
    first, again = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz")
    assert all(np.array_equal(first[name], again[name]) for name in ("images", "latents", "seeds"))
    draw("--latent", "a.npz:2,9,a.npz:0-1", "--out", "c.npz")
    chosen = arrays(tmp_path / "c.npz")
    assert chosen["seeds"].tolist() == [5, 9, 3, 4]
    assert np.array_equal(chosen["images"][[0, 2, 3]], first["images"][[2, 0, 1]])


def test_latents_of_no_seed(draw: Run, genkit: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "me.npz", latents=np.stack([latents(7, 8), latents(8, 8)]))
    done = draw("--latent", "me.npz", "--json")
    facts = json.loads(done.out)
    assert (facts["seeds"], facts["files"], facts["latent"]) == ([None, None], ["genkit-me.png"], "me.npz")
    assert json.loads(genkit("info", "genkit-me.png", "--json").out)["latent"] == "me.npz"
    assert draw("--latent", "me.npz", "--each", "--out", "f").text == "f/latent00000.png\nf/latent00001.png\n"
    draw("--latent", "me.npz", "--out", "a.npz")
    draw("--seeds", "7-8", "--out", "b.npz")
    assert np.array_equal(arrays(tmp_path / "a.npz")["images"], arrays(tmp_path / "b.npz")["images"])
    assert "seeds" not in arrays(tmp_path / "a.npz")


def test_latents_of_one_seed_become_a_file_each(draw: Run, tmp_path: Path) -> None:
    """The frames between two stops have the seed of the first."""
    draw("--interpolate", "3,8", "--frames", "4", "--no-loop", "--out", "walk.npz")
    drawn = draw("--latent", "walk.npz", "--each", "--out", "f").text.split()
    assert drawn == [f"f/{name}.png" for name in ("seed00003", "seed00003-00001", "seed00003-00002", "seed00008")]
    assert len({(tmp_path / path).read_bytes() for path in drawn}) == 4


def test_mixtures(draw: Run, tmp_path: Path) -> None:
    draw("--seeds", "3-4", "--out", "a.npz")
    done = draw("--latent", "a.npz,9", "--mix", "0.3", "--out", "b.npz")
    assert (done.code, done.text, done.err) == (0, "b.npz\n", "")
    held = arrays(tmp_path / "b.npz")
    assert np.array_equal(held["latents"], [slerp(latents(seed, 8), latents(9, 8), 0.3) for seed in (3, 4)])
    assert json.loads(str(held["note"]))["mix"] == "0.3"


def test_a_walk_through_files_and_seeds(draw: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "me.npz", latents=np.stack([latents(7, 8), latents(8, 8)]))
    done = draw("--interpolate", "3,me.npz,9", "--frames", "8", "--out", "walk.npz")
    assert (done.code, done.text, done.err) == (0, "walk.npz\n", "")
    walk = arrays(tmp_path / "walk.npz")
    assert np.array_equal(walk["latents"][::2], [latents(seed, 8) for seed in (3, 7, 8, 9)])
    facts = json.loads(draw("--interpolate", "me.npz:1,9", "--frames", "3", "--json").out)
    assert (facts["seeds"], facts["files"]) == ([None, 9], ["genkit-me.gif"])
    assert draw("--interpolate", "me.npz", "--frames", "3").code == 0


def test_labels_of_a_file_and_others(genkit: Run, tiny_classes: Path, tmp_path: Path) -> None:
    draw = ("image", "-m", str(tiny_classes), "-q")
    genkit(*draw, "--class", "pear=1,apple=1", "--seed", "0", "--out", "a.npz")
    genkit(*draw, "--latent", "a.npz", "--out", "b.npz")
    genkit(*draw, "--latent", "a.npz", "--class", "cherry", "--out", "c.npz")
    a, b, c = (arrays(tmp_path / f"{name}.npz") for name in "abc")
    assert b["labels"].tolist() == [2, 0]
    assert np.array_equal(a["images"], b["images"])
    assert c["labels"].tolist() == [1, 1]
    assert (a["images"][0] != c["images"][0]).any()
    np.savez(tmp_path / "plain.npz", latents=a["latents"])
    genkit(*draw, "--latent", "plain.npz", "--out", "d.npz")
    assert arrays(tmp_path / "d.npz")["labels"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--latent", "no.npz"], 3, "cannot read no.npz: No such file or directory"),
        (["--latent", "short.npz"], 3, "short.npz: latents of 3 numbers, and the model takes 8 (use the model that"),
        (["--interpolate", "short.npz,1"], 3, "short.npz: latents of 3 numbers, and the model takes 8"),
        (["--latent", "a.npz:2"], 2, "a.npz:2: the file has rows 0 to 1"),
        (["--latent", "a.npz:x"], 2, "--latent a.npz:x names no rows of the file (write me.npz, me.npz:3 or"),
        (["--latent", "a.png"], 2, "--latent 'a.png' is not a list of seeds or .npz files"),
        (["--latent", "a.npz", "--n", "3"], 2, "--latent contradicts --n, --seed and --seeds"),
        (["--latent", "a.npz", "--seed", "3"], 2, "--latent contradicts --n, --seed and --seeds"),
        (["--latent", "a.npz", "--seeds", "3"], 2, "--latent contradicts --n, --seed and --seeds"),
        (["--latent", "a.npz", "--interpolate", "0,1"], 2, "--interpolate contradicts"),
        (["--mix", "0.5"], 2, "--mix says how two latents are mixed, and there are none (add --latent a.npz,b.npz)"),
        (["--mix", "0.5", "--latent", "a.npz"], 2, "--mix mixes two, and --latent a.npz is not two"),
        (["--mix", "0.5", "--latent", "0,1,2"], 2, "--mix mixes two, and --latent 0,1,2 is not two"),
        (["--mix", "1.5", "--latent", "0,1"], 2, "--mix 1.5 is out of range (use 0 <= x <= 1)"),
        (["--interpolate", "a.npz:0"], 2, "--interpolate a.npz:0 is one image"),
        (["--interpolate", "a.npz", "--frames", "1"], 2, "--frames 1 is out of range"),
        (["--interpolate", "a.npz,a.npz", "--frames", "3"], 2, "names 4 seeds for 3 frames"),
    ],
)
def test_refusals(draw: Run, tmp_path: Path, args: list[str], code: int, message: str) -> None:
    np.savez(tmp_path / "a.npz", latents=np.ones((2, 8), np.float32))
    np.savez(tmp_path / "short.npz", latents=np.ones((2, 3), np.float32))
    done = draw("-q", *args)
    assert (done.code, done.out) == (code, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "short.npz"]

"""`genkit image`: which images are drawn, where they go, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.image import canvas, graph

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def draw(genkit: Run, tiny_image: Path) -> Run:
    return lambda *args: genkit("image", "-m", str(tiny_image), *args)


def test_grid_goes_to_the_file_and_its_path_to_stdout(draw: Run, tmp_path: Path) -> None:
    done = draw("--n", "4", "--seed", "3", "--out", "grid.png")
    assert (done.code, done.text, done.err) == (0, "grid.png\n", "")
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (2 + 2 * 34, 2 + 2 * 34)
        assert picture.info["seeds"] == "3-6"
        assert len(picture.info["model_sha256"]) == 64


def test_same_seed_same_bytes(draw: Run, tmp_path: Path) -> None:
    draw("--n", "2", "--seed", "5", "--out", "a.png")
    draw("--seeds", "5-6", "--out", "b.png")
    draw("--n", "2", "--seed", "6", "--out", "c.png")
    first, again, other = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in "abc")
    assert (first == again).all()
    assert (first != other).any()


def test_a_random_seed_is_told_and_draws_the_same_again(draw: Run, tmp_path: Path) -> None:
    done = draw("--n", "1", "--out", "a.png")
    seed = done.err.removeprefix("seed ").strip()
    draw("--n", "1", "--seed", seed, "--out", "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    quiet = draw("--n", "1", "-q", "--out", "c.png")
    assert quiet.err == ""


def test_default_name_has_the_seed(draw: Run, tmp_path: Path) -> None:
    assert draw("--seed", "7", "--n", "1").text == "genkit-7.png\n"
    assert draw("--seed", "7", "--n", "1", "--format", "webp").text == "genkit-7.webp\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["genkit-7.png", "genkit-7.webp"]


def test_each(draw: Run, tmp_path: Path) -> None:
    done = draw("--seeds", "3,11", "--each", "--out", "cats")
    assert done.text == "cats/seed00003.png\ncats/seed00011.png\n"
    with Image.open(tmp_path / "cats/seed00011.png") as picture:
        assert (picture.size, picture.info["seed"]) == ((32, 32), "11")


def test_npz(draw: Run, tmp_path: Path) -> None:
    draw("--seeds", "0-2", "--out", "a.npz")
    with np.load(tmp_path / "a.npz") as held:
        assert held["images"].shape == (3, 32, 32, 3)
        assert held["images"].dtype == np.uint8
        assert held["seeds"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("args", "kind"), [([], "PNG"), (["--format", "webp"], "WEBP"), (["--format", "jpg"], "JPEG")])
def test_stdout_holds_the_picture_alone(draw: Run, args: list[str], kind: str) -> None:
    done = draw("--n", "1", "--seed", "1", "--out", "-", *args)
    assert done.code == 0
    with Image.open(io.BytesIO(done.out)) as picture:
        picture.load()
        assert picture.format == kind


def test_json(draw: Run, tmp_path: Path) -> None:
    facts = json.loads(draw("--seeds", "4-5", "--out", "a.png", "--json").out)
    assert facts["files"] == ["a.png"]
    assert facts["seeds"] == [4, 5]
    assert (facts["size"], facts["channels"]) == (32, 3)


def test_existing_file_is_replaced_unless_no_clobber(draw: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    refused = draw("--n", "1", "--no-clobber", "--out", "a.png")
    assert refused.code == 4
    assert "a.png exists" in refused.err
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert draw("--n", "1", "--out", "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--out", "a.bmp"], 2, "--out a.bmp: genkit does not write .bmp"),
        (["--out", "a.png", "--format", "jpg"], 2, "--format jpg contradicts --out a.png"),
        (["--each", "--out", "a.png"], 2, "--each writes many files"),
        (["--each", "--out", "-"], 2, "--each writes many files"),
        (["--each", "--format", "npz"], 2, "--each does not go with npz"),
        (["--seeds", "1-3", "--seed", "1"], 2, "--seeds contradicts --n and --seed"),
        (["--seeds", "1-3", "--n", "3"], 2, "--seeds contradicts --n and --seed"),
        (["--seeds", "3-1"], 2, "--seeds '3-1' is an empty or too long range"),
        (["--seeds", "x"], 2, "--seeds 'x' is not a list of seeds"),
        (["--seeds", "99999999999999999999"], 2, "has a seed above"),
        (["--n", "0"], 2, "--n 0 is out of range"),
        (["--seed", "-1"], 2, "--seed -1 is out of range"),
        (["--json", "--out", "-"], 2, "--json and --out - both need standard output"),
        (["--out", "none/a.png"], 4, "cannot write none/a.png: No such file or directory (create the folder first)"),
        (["--out", "."], 4, "cannot write .: Is a directory"),
        (["--out", "new/"], 4, "cannot write new/: Is a directory"),
        (["--device", "tpu"], 2, "--device 'tpu' is not a device"),
        (["--device", "cuda:99"], 5, "--device cuda:99 is not on this machine"),
        (["--precision", "fp8"], 2, "--precision 'fp8' is not a precision"),
        (["--engine", "onxx"], 2, "--engine 'onxx' is not an engine"),
    ],
)
def test_refusals(draw: Run, tmp_path: Path, args: list[str], code: int, message: str) -> None:
    done = draw(*args)
    assert (done.code, done.out) == (code, b"")
    lines = [line for line in done.err.splitlines() if not line.startswith("seed ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("form", ["webp", "jpg"])
def test_a_sheet_too_large_for_its_format_is_refused_before_drawing(
    draw: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("genkit.pipeline.ImagePipeline.draw", lambda *_, **__: iter(lambda: 1 // 0, None))
    monkeypatch.setitem(canvas.MAX_SIDE, form, 69)
    done = draw("--n", "4", "--seed", "1", "--out", f"a.{form}")
    assert (done.code, done.out) == (2, b"")
    assert f"{form} holds at most 69 pixels a side, not 70" in done.err
    assert [*tmp_path.iterdir()] == []


def test_out_of_memory_is_a_matter_of_resources(draw: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("genkit.image.engines.torch.draw", exhausted)
    done = draw("--n", "4", "--seed", "1", "--out", "a.png", "--engine", "torch")
    assert (done.code, done.err) == (5, "error: out of memory (lower --n, or use --device cpu)\n")
    monkeypatch.setattr("genkit.image.models.store.load_generator", exhausted)
    done = draw("--n", "4", "--seed", "1", "--out", "a.png", "--engine", "torch")
    assert (done.code, done.err) == (5, "error: out of memory (use --device cpu, or a smaller model)\n")


def test_full_disk_on_stdout(draw: Run, run_genkit: Run, tiny_image: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run_genkit("image", "-m", str(tiny_image), "-q", "--n", "1", "--out", "-", stdout=full)
    assert done.code == 4
    assert done.err.startswith("error: cannot write to standard output: No space left on device")


def test_bytes_to_a_terminal_are_refused(tiny_image: Path) -> None:
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "genkit", "image", "-m", str(tiny_image), "--out", "-"],
        stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 2
    assert done.stderr == "error: --out - would write an image to this terminal (redirect it: --out - > grid.png)\n"


def break_weights(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({
            "empty": b"",
            "truncated": data[:-100],
            "pickle": b"\x80\x04\x95" + data,
            "zip": b"PK\x03\x04" + data,
            "web page": b"<!DOCTYPE html><html></html>",
            "header": (10**12).to_bytes(8, "little") + data[8:],
            "trailing": data + b"x",
        }[how])  # fmt: skip


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "pickle", "zip", "web page", "header", "trailing"])
def test_broken_weights(genkit: Run, tiny_image: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(tiny_image, tmp_path / "model")
    break_weights(tmp_path / "model", how)
    done = genkit("image", "-m", "model", "-q")
    assert (done.code, done.out) == (3, b"")
    assert done.err.count("\n") == 1
    assert "model.safetensors" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_wrong_models(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    done = genkit("image", "-m", str(tiny_text))
    assert (done.code, done.err) == (3, f"error: {tiny_text} is a text model (use genkit text)\n")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    assert genkit("image", "-m", "a.pt").code == 3
    done = genkit("image", "-m", "nowhere")
    assert done.code == 3
    assert done.err.startswith("error: no model 'nowhere'")


def test_a_cpu_imports_no_framework(tiny_classes: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from genkit.cli import entry; code = entry(sys.argv[1:]); "
        "print(code, *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    classes = ["-m", str(shutil.copytree(tiny_classes, tmp_path / "model")), "--class", "pear,apple"]
    graph.write(tmp_path / "model")  # as training does
    for args in (
        ["--out", "a.png"],
        ["--out", "a.npz"],
        ["--latent", "a.npz,3", "--mix", "0.5", "--out", "b.webp"],
        ["--interpolate", "0,a.npz", "--frames", "30", "--out", "a.gif"],
        [*classes, "--out", "c.jpg"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, "image", "--device", "cpu", "-q", *args],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        code, *modules = done.stderr.split()
        assert code == "0"
        assert not {"torch", "torchvision", "transformers", "onnx", "av", "rich"} & set(modules)
        assert {"onnxruntime", "numpy"} <= set(modules)


def test_every_picture_alone_is_that_of_the_sheet(draw: Run, tmp_path: Path) -> None:
    draw("--seeds", "0-20", "--out", "all.npz")
    draw("--seeds", "0-20", "--each", "--out", "each")
    draw("--seeds", "13", "--out", "one.npz")
    with np.load(tmp_path / "all.npz") as held, np.load(tmp_path / "one.npz") as one:
        assert np.array_equal(held["images"][13], one["images"][0])
        assert np.array_equal(held["latents"][13], one["latents"][0])
        for seed in range(21):
            assert np.array_equal(np.asarray(Image.open(tmp_path / f"each/seed{seed:05d}.png")), held["images"][seed])


def test_engines_agree(draw: Run, tmp_path: Path) -> None:
    for engine in ("onnx", "torch"):
        assert draw("--seeds", "0-7", "--engine", engine, "--out", f"{engine}.npz").code == 0
    with np.load(tmp_path / "onnx.npz") as ours, np.load(tmp_path / "torch.npz") as theirs:
        assert np.array_equal(ours["latents"], theirs["latents"])
        assert np.abs(ours["images"].astype(int) - theirs["images"]).max() <= 1

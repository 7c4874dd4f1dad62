"""`genkit info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from genkit.files import sha256

Run = Callable[..., Any]


def test_info_of_a_text_model(genkit: Run, tiny_text: Path) -> None:
    found = json.loads(genkit("info", str(tiny_text), "--json").out)
    assert found["makes"] == "text"
    assert found["config"]["model_type"] == "qwen3"
    assert found["sha256"] == sha256(tiny_text / "model.safetensors")
    lines = genkit("info", str(tiny_text)).text.splitlines()
    assert "makes: text" in lines
    assert "config.num_hidden_layers: 2" in lines
    assert f"parameters: {found['parameters']}" in lines


def test_parameters_of_the_generator(genkit: Run, tiny_image: Path) -> None:
    from genkit.image.config import DCGANConfig
    from genkit.image.models.dcgan import Generator

    numbers = sum(p.numel() for p in Generator(DCGANConfig(size=32, nz=8, ngf=4, ndf=4)).state_dict().values())
    assert json.loads(genkit("info", str(tiny_image), "--json").out)["parameters"] == numbers


def test_a_picture_says_how_to_draw_it_again(genkit: Run, tiny_image: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.jpg"):
        genkit("image", "-m", str(tiny_image), "--seeds", "3,5-6", "--out", name)
        note = json.loads(genkit("info", name, "--json").out)
        assert (note["seeds"], note["model"]) == ("3,5-6", str(tiny_image))
        assert note["model_sha256"] == sha256(tiny_image / "model.safetensors")
    again = genkit("image", "-m", note["model"], "--seeds", note["seeds"], "--out", "b.png")
    assert again.code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_foreign_picture_cannot_drive_the_terminal(genkit: Run, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("model", "x\x1b]0;title\x07\ny")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=text)
    done = genkit("info", "a.png")
    assert done.text.splitlines()[1] == r"model: x\x1b]0;title\x07 y"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "no model 'nowhere'"),
        ("none.png", "cannot read none.png: No such file or directory"),
        ("text.png", "not a png, webp, jpg or gif"),
        ("plain.png", "plain.png does not say how it was drawn"),
        ("https://example.com/m", "a model is not named by a URL"),
    ],
)
def test_refusals(genkit: Run, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    done = genkit("info", target)
    assert (done.code, done.out) == (3, b"")
    assert done.err.count("\n") == 1
    assert message in done.err

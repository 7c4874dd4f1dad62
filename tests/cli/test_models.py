"""`genkit models`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_models_lists_runs_and_survives_a_broken_one(
    genkit: Run, tiny_text: Path, tiny_image: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_text, tmp_path / "runs/a")
    shutil.copytree(tiny_image, tmp_path / "runs/b")
    (tmp_path / "runs/b/model.safetensors").write_bytes(b"broken")
    found = {m["name"]: m["makes"] for m in json.loads(genkit("models", "--json").out)}
    assert found["runs/a"] == "text"
    assert found["runs/b"] == "unreadable"
    lines = genkit("models").text.splitlines()
    assert len(lines) == len(found)
    assert all(line.count("\t") == 3 for line in lines)


def test_hub_models_of_the_cache_are_listed(
    genkit: Run, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache layout of huggingface_hub, made by hand; a model without safetensors is no use here."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for repo, weights in (("models--org--tiny", "model.safetensors"), ("models--old", "pytorch_model.bin")):
        snapshot = tmp_path / repo / "snapshots" / "abc"
        shutil.copytree(tiny_text, snapshot)
        (snapshot / "model.safetensors").rename(snapshot / weights)
        (tmp_path / repo / "refs").mkdir()
        (tmp_path / repo / "refs/main").write_text("abc")
    (tmp_path / "models--broken/refs/main").mkdir(parents=True)
    found = {m["name"]: m for m in json.loads(genkit("models", "--json").out)}
    assert found["hf:org/tiny"]["path"] == str(tmp_path / "models--org--tiny/snapshots/abc")
    assert found["hf:org/tiny"]["makes"] == "text"
    assert not {"hf:old", "hf:broken"} & found.keys()


def test_the_place_of_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from genkit import library

    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    snapshot = Path("models--m/snapshots/abc")
    for name, value, below in (
        (None, None, ".cache/huggingface/hub"),
        ("XDG_CACHE_HOME", tmp_path / "xdg", "xdg/huggingface/hub"),
        ("HF_HOME", tmp_path / "home", "home/hub"),
        ("HF_HUB_CACHE", tmp_path / "own", "own"),
    ):
        monkeypatch.setenv("HOME", str(tmp_path))
        if name:
            monkeypatch.setenv(name, str(value))
        (tmp_path / below / snapshot).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (tmp_path / below / snapshot / file).write_text("{}")
        (tmp_path / below / "models--m/refs").mkdir()
        (tmp_path / below / "models--m/refs/main").write_text("abc\n")
        assert library.known()["hf:m"] == tmp_path / below / snapshot
    assert constants.HF_HUB_CACHE.endswith("hub")


def test_a_name_cannot_drive_the_terminal(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_text, tmp_path / "runs/a\tb\x1b[31m\n")
    lines = genkit("models").text.splitlines()
    assert all(line.count("\t") == 3 for line in lines)
    assert any(line.startswith(r"runs/a b\x1b[31m") for line in lines)

"""Every example runs, on tiny models and data where the real ones are large."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
STORY = "Once upon a time there was a little dog. The dog ran to the cat and they played all day.\n"


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH finds this genkit."""
    (tmp_path / "bin").mkdir()
    for name, words in {"genkit": "-m genkit", "python3": ""}.items():
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        script.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}


def run(command: list[str], env: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pipes(tmp_path: Path, shell: dict[str, str]) -> None:
    out = run(["bash", str(EXAMPLES / "pipes.sh")], shell, tmp_path)
    assert len(list((tmp_path / "kittens").iterdir())) == 16
    assert out.splitlines()[-1].strip() == "16"
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_library(tmp_path: Path, shell: dict[str, str]) -> None:
    out = run([sys.executable, str(EXAMPLES / "library.py")], shell, tmp_path)
    assert len(out.split()) > 20
    assert {p.name for p in tmp_path.glob("*.png")} == {"kitten-0.png", "kitten-1.png"}


def test_train_kittens(tmp_path: Path, shell: dict[str, str]) -> None:
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    small = {"FILTERS": "4", "BUDGET": "5s"}
    run(["bash", str(EXAMPLES / "train_kittens.sh"), "images", "kittens"], shell | small, tmp_path)
    record = json.loads((tmp_path / "kittens/genkit.json").read_text())
    assert "David Revoy" in record["data"]["license"]


def test_train_story(tmp_path: Path, shell: dict[str, str]) -> None:
    documents = [f"{STORY * 8}Number {i}." for i in range(30)]
    text = "\n<|endoftext|>\n".join(documents).encode()
    (tmp_path / "fairy_tales.txt.xz").write_bytes(lzma.compress(text))
    (tmp_path / "tinystories.txt.xz").write_bytes(lzma.compress(text))
    (tmp_path / "heldout.txt").write_bytes(text)
    records = "".join(json.dumps({"title": "a", "text": document}) + "\n" for document in documents)
    (tmp_path / "storybooks.jsonl.xz").write_bytes(lzma.compress(records.encode()))
    small = {"PRESET": "tiny", "BATCH": "2", "BROAD": "5s", "COOL": "5s", "COMPILE": "--no-compile"}
    run(["bash", str(EXAMPLES / "train_story.sh"), ".", "out"], shell | small, tmp_path)
    record = json.loads((tmp_path / "out/story/genkit.json").read_text())
    assert record["config"]["init_from"] == "out/story-base"
    assert record["data"]["license"].startswith("Project Gutenberg")

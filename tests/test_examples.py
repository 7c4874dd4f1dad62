"""Every example runs, on tiny models and data where the real ones are large."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = sorted((EXAMPLES / "recipes").glob("*.sh"))
LISTS = {"train.txt", "test.txt", "SHA256SUMS"}
PARTS = {f"results-0000{i}-of-00003.jsonl" for i in (1, 2, 3)}
# recipe -> what it prints, as a pattern, and what it leaves
RESULTS = {
    "album": (r"^SHA256SUMS$", {"album", "album.tar.gz", "album.txt", "shuffled.txt", *LISTS}),
    "best_of": (r"\A(-\d\.\d+\t.*\n){3}\Z", set()),
    "characters": (r'\A("(Tom|Lily|Ben|Anna)","(cat|dog|bird|fox)",[3-9]\n){6}\Z', {"characters.csv"}),
    "curate": (r"\A30\n(distinct-[123] +0\.\d{4} .*\n){3}self-bleu +\d\d\.\d\d ", {"tired.txt", "openings.jsonl"}),
    "deadline": (r"^lines: 20\n(.*\n)*samples: 20$", {"chapters.txt", "book.jsonl"}),
    "drafts": (r"^Tom had a hat. He \w", {"drafts"}),
    "mail_merge": (r"^ *\d+ total$", {"children.csv", "story-Anna.txt", "story-Ben.txt", "story-Lily.txt"}),
    "redraw": (r"^seeds 40-48: the same bytes$", {"grid.png", "again.png", "middle.png"}),
    "resident": (r'\A\{"id": 1, "prompt": "The moon is".*\n.*"Mother said".*\n.*"At the sea".*\n\Z', {"ask", "answer"}),
    "shards": (r'^ +7\t\{"id": 7, "prompt": "The owl went', PARTS | {"prompts.txt", "results.jsonl"}),
    "smaller": (r"^The old king was very happy", {"story-int8", "story-int8.gguf", "folder.txt", "file.txt"}),
    "taste": (r"\Ajudge\nThe girl(.|\n)*(\n---\nThe girl(.|\n)*){3}\Z", {"labelled.jsonl", "judge"}),
    "vote": (r"^most say: (happy|sad|angry|afraid)$", {"votes.txt"}),
}  # fmt: skip
STORY = "Once upon a time there was a little dog. The dog ran to the cat and they played all day.\n"
# what a bare Debian has: bash, coreutils, findutils, grep, sed, mawk, tar and gzip; and jq, which is asked for
TOOLS = """
awk bash cat cmp cut echo env find grep gzip head jq mkdir mkfifo mv nl paste printf rm sed seq sh sha256sum shuf
sort split tail tar tee test timeout uniq wc xargs
"""


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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(tmp_path: Path, shell: dict[str, str], recipe: Path) -> None:
    script = recipe.read_text()
    if "jq " in script and shutil.which("jq") is None:
        pytest.skip("jq is not here")
    assert script.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in script
    assert 3 <= len(script.splitlines()) - 3 <= 10  # beside these three
    assert os.access(recipe, os.X_OK)
    for tool in TOOLS.split():
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "missing")
    folder = tmp_path / "empty"
    folder.mkdir()
    out = run([str(recipe)], shell | {"PATH": str(tmp_path / "bin")}, folder)
    check, expected = RESULTS[recipe.stem]
    assert re.search(check, out, re.MULTILINE), out
    assert {path.name for path in folder.iterdir()} == expected


def test_every_recipe_has_its_result() -> None:
    assert {recipe.stem for recipe in RECIPES} == set(RESULTS)


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


def test_train_fruits(tmp_path: Path, shell: dict[str, str]) -> None:
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)):
        folder = tmp_path / "images" / ("apple", "cherry")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    small = {"FILTERS": "4", "BUDGET": "5s"}
    run(["bash", str(EXAMPLES / "train_fruits.sh"), "images", "fruits"], shell | small, tmp_path)
    assert json.loads((tmp_path / "fruits/config.json").read_text())["classes"] == ["apple", "cherry"]


def test_train_story(tmp_path: Path, shell: dict[str, str]) -> None:
    def documents(source: str) -> list[str]:
        return [f"{STORY * 8}Number {i} of the {source}." for i in range(30)]

    for name in ("fairy_tales.txt.xz", "tinystories.txt.xz", "heldout.txt"):
        text = "\n<|endoftext|>\n".join(documents(name)).encode()
        (tmp_path / name).write_bytes(lzma.compress(text) if name.endswith(".xz") else text)
    records = "".join(json.dumps({"title": "a", "text": document}) + "\n" for document in documents("storybooks"))
    (tmp_path / "storybooks.jsonl.xz").write_bytes(lzma.compress(records.encode()))
    small = {"PRESET": "tiny", "BATCH": "2", "BUDGET": "5s", "COMPILE": "--no-compile"}
    run(["bash", str(EXAMPLES / "train_story.sh"), ".", "out"], shell | small, tmp_path)
    record = json.loads((tmp_path / "out/story/genkit.json").read_text())
    assert [path.rpartition(":")[2] for path in record["config"]["data"]] == ["./fairy_tales.txt.xz", "5", "3"]
    assert record["data"]["license"].startswith("Project Gutenberg")

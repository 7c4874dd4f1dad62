"""`genkit export`; what the files hold is tested in tests/test_export.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_the_path_is_printed(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    done = genkit("export", str(tiny_text), "--to", "hf", "--out", "out")
    assert (done.code, done.out, done.err) == (0, b"out\n", "")
    done = genkit("export", str(tiny_text), "--to", "hf", "-o", "out", "--precision", "fp16", "--json")
    assert json.loads(done.out) == {
        "model": str(tiny_text),
        "to": "hf",
        "precision": "fp16",
        "path": "out",
        "bytes": sum(file.stat().st_size for file in (tmp_path / "out").iterdir()),
    }


def test_an_exported_folder_is_a_model(genkit: Run, tiny_text: Path) -> None:
    genkit("export", str(tiny_text), "--to", "hf", "--out", "out")
    args = ("The cat", "--seed", "3", "--max-new-tokens", "8", "-q")
    assert genkit("text", "-m", "out", *args).out == genkit("text", "-m", str(tiny_text), *args).out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--to", "hf"], 2, "Missing option '-o' / '--out'"),
        (["--out", "x"], 2, "Missing option '--to'"),
        (["--to", "gguf", "--out", "x/"], 2, "--out x/ names a folder, and gguf is one file (give a file name)"),
        (["--to", "ggml", "--out", "x"], 2, "'ggml' is not one of 'gguf', 'onnx', 'hf'"),
        (["--to", "onnx", "--out", "x"], 2, "onnx does not hold text models (use --to gguf or hf)"),
        (["--to", "gguf", "--out", "x", "--precision", "bf16"], 2, "gguf is not written in bf16"),
        (["--to", "gguf", "--out", "-"], 2, "--out must name a file or folder"),
        (["--to", "gguf", "--out", ""], 2, "--out must name a file or folder"),
        (["--to", "gguf", "--out", "none/x"], 4, "create the folder first"),
        (["--to", "gguf", "--out", "mine", "--no-clobber"], 4, "mine exists"),
        (["--to", "hf", "--out", "mine"], 4, "mine is a file"),
        (["--to", "gguf", "--out", "/dev/full"], 4, "is not a file"),
    ],
)
def test_refusals(genkit: Run, tiny_text: Path, tmp_path: Path, args: list[str], code: int, message: str) -> None:
    (tmp_path / "mine").write_text("mine")
    done = genkit("export", str(tiny_text), *args)
    assert (done.code, done.out) == (code, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert os.listdir(tmp_path) == ["mine"]
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_adapter_is_merged_with_its_base(run_genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the cat sat on the mat\n" * 40)
    args = ("--steps", "30", "--batch-size", "4", "--lr", "0.03", "--block-size", "16", "--lora", "4", "--out", "run")
    done = run_genkit("train-text", "--data", "book.txt", "--init-from", str(tiny_text), *args)
    assert done.code == 0, done.err
    assert " trained\n" in done.err
    sampling = ("The cat", "--temperature", "0", "--max-new-tokens", "8", "-q")
    tuned = run_genkit("text", "-m", "run", *sampling).out
    assert tuned != run_genkit("text", "-m", str(tiny_text), *sampling).out
    for form, out in (("hf", "whole"), ("gguf", "whole.gguf")):
        done = run_genkit("export", "run/adapter", "--to", form, "--out", out)
        assert (done.code, done.text, done.err) == (0, f"{out}\n", "")
        assert run_genkit("text", "-m", out, *sampling).out == tuned
    assert {path.name for path in tmp_path.iterdir()} == {"book.txt", "run", "whole", "whole.gguf"}
    done = run_genkit("text", "-m", "run/adapter", "The")
    assert (done.code, done.err) == (
        3,
        "error: run/adapter is a LoRA adapter, not a whole model "
        "(merge it with its base: genkit export run/adapter --to hf --out MODEL)\n",
    )
    done = run_genkit("export", "run", "--to", "hf", "--base", str(tiny_text), "--out", "other")
    assert (done.code, done.err) == (2, "error: --base goes with a LoRA adapter, and run is a model (leave it out)\n")


@pytest.mark.parametrize(
    ("config", "args", "code", "message"),
    [
        ({}, (), 3, "adapter: adapter_config.json names no base model (name it with --base MODEL)"),
        (
            {"base_model_name_or_path": "/gone"},
            (),
            3,
            "is not found: 'hf:/gone' is not a hub name (name it with",
        ),
        ({"base_model_name_or_path": "{base}"}, (), 3, "adapter is an adapter of the kind None (genkit merges LORA)"),
        ({"base_model_name_or_path": "{base}", "peft_type": "LORA", "r": 1, "lora_alpha": 1}, (), 3, "adapter_model"),
        ({"base_model_name_or_path": "{base}"}, ("--to", "onnx"), 2, "onnx does not hold text models"),
        ({}, ("--base", "nothing"), 3, "the base of adapter is not found: no model 'nothing'"),
    ],
)
def test_adapters_that_cannot_be_merged(
    genkit: Run, tiny_text: Path, tmp_path: Path, config: dict[str, Any], args: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "adapter").mkdir()
    text = json.dumps(config).replace("{base}", str(tiny_text))
    (tmp_path / "adapter/adapter_config.json").write_text(text)
    done = genkit("export", "adapter", "--to", "hf", "--out", "whole", *args)
    assert (done.code, done.out) == (code, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert os.listdir(tmp_path) == ["adapter"]


def test_a_file_behind_standard_output_is_refused_too(run_genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        done = run_genkit("export", str(tiny_text), "--to", "gguf", "--out", "/dev/stdout", stdout=file)
    assert (done.code, done.err) == (4, "error: /dev/stdout is not a file (give the name of a new file)\n")


def test_an_unknown_model(genkit: Run) -> None:
    done = genkit("export", "stoory", "--to", "hf", "--out", "x", "--json")
    assert (done.code, done.out) == (3, b"")
    assert json.loads(done.err)["error"]["hint"] == "did you mean 'story'?"

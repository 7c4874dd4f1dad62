"""`genkit compress`: what comes out works everywhere, and what cannot be done is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from safetensors.numpy import load_file, save_file

import genkit as genkit_package

Run = Callable[..., Any]


@pytest.fixture
def book(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text("The cat sat on the mat. The dog ran to the cat.\n" * 100)
    return "book.txt"


def test_a_quantised_model_works_everywhere(genkit: Run, tiny_text: Path, book: str, tmp_path: Path) -> None:
    done = genkit("compress", str(tiny_text), "--quantize", "int8", "--data", book, "--out", "small", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    schema = json.loads((Path(genkit_package.__file__).parent / "schemas/compress.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    assert found["after"]["precision"] == "int8"  # llama.cpp reads it as it is stored
    assert found["after"]["bytes"] < 0.6 * found["before"]["bytes"]
    assert found["after"]["bits_per_byte"] == pytest.approx(found["before"]["bits_per_byte"], rel=0.01)

    written = genkit("text", "-m", "small", "The cat", "--max-new-tokens", "8", "--temperature", "0", "--json")
    assert json.loads(written.out)["precision"] == "int8"
    by_torch = genkit("text", "-m", "small", "The cat", "--max-new-tokens", "8", "--temperature", "0",
                      "--engine", "torch", "--json")  # fmt: skip
    assert json.loads(by_torch.out)["precision"] == "fp32"
    info = json.loads(genkit("info", "small", "--json").out)
    assert info["parameters"] == found["before"]["parameters"]
    assert genkit("eval", "small", "--data", book).code == 0
    assert json.loads(genkit("export", "small", "--to", "gguf", "--out", "s.gguf", "--json").out)["precision"] == "int8"
    assert genkit("export", "small", "--to", "hf", "--out", "plain").code == 0
    assert "quantization_config" not in json.loads((tmp_path / "plain/config.json").read_text())

    refused = genkit("train-text", "--data", book, "--init-from", "small", "--out", "run")
    assert refused.code == 3
    assert "is quantised to int8, which is not trained further" in refused.err
    again = genkit("compress", "small", "--prune", "0.5", "--out", "x")
    assert again.code == 3
    assert "is quantised to int8 already" in again.err


def test_a_run_is_resumed_by_its_own_command(genkit: Run, tiny_text: Path, book: str) -> None:
    started = ("compress", str(tiny_text), "--distill-into", "half", "--data", book, "--steps", "2")
    done = genkit(*started, "--batch-size", "4", "--out", "run")
    assert done.code == 0, done.err
    assert done.text.splitlines()[0].split() == ["before", "after"]
    assert genkit(*started, "--out", "run").code == 2  # it holds a run
    assert genkit("compress", "--resume", "--steps", "3", "--out", "run").code == 0
    wrong = genkit("compress", "--resume", "--prune", "0.5", "--out", "run")
    assert wrong.code == 2
    assert "--prune was not given when this run began" in wrong.err
    other = genkit("train-text", "--resume", "--out", "run")
    assert other.code == 3
    assert "genkit compress --resume --out run" in other.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "how to compress is missing"),
        (["--quantize", "int8", "--prune", "0.5"], 2, "--quantize and --prune exclude each other"),
        (["--quantize", "int3"], 2, "--quantize 'int3' is not one of int8, int4"),
        (["--prune", "0"], 2, "--prune 0.0 is out of range (use 0 < x < 1)"),
        (["--prune", "1"], 2, "--prune 1.0 is out of range (use 0 < x < 1)"),
        (["--prune", "0.1"], 2, "leaves all 64 neurons of a layer"),
        (["--distill-into", "half"], 2, "--data is missing"),
        (["--distill-into", "tiny", "--data", "BOOK", "--steps", "1"], 2, "--distill-into tiny has"),
        (["--prune", "0.5", "--budget", "1m"], 2, "--data is missing"),
        (["--quantize", "int8", "--budget", "1m"], 2, "--budget is for training, and --quantize does not train"),
        (["--prune", "0.5", "--lr", "0.1"], 2, "--lr is for training, and --prune trains with a budget only"),
        (["--quantize", "int8", "--val-fraction", "0.1"], 2, "--val-fraction holds out text"),
        (["--quantize", "int8", "--data", "nowhere.txt"], 3, "nowhere.txt: no such file or folder"),
    ],
)
def test_bad_input_is_named(genkit: Run, tiny_text: Path, book: str, args: list[str], code: int, said: str) -> None:
    done = genkit("compress", str(tiny_text), *[book if a == "BOOK" else a for a in args], "--out", "out")
    assert (done.code, said in done.err) == (code, True), done.err


@pytest.mark.parametrize("method", [("--quantize", "int8"), ("--prune", "0.5")])
def test_text_that_is_refused_leaves_no_model(genkit: Run, tiny_text: Path, tmp_path: Path, method: Any) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\0" * 99)
    done = genkit("compress", str(tiny_text), *method, "--data", "bad.txt", "--out", "out")
    assert done.code == 3
    assert "bad.txt is binary" in done.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "bad.txt"] == []


def test_weights_of_another_shape_leave_no_model(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_text, tmp_path / "damaged")
    tensors = load_file(tmp_path / "damaged/model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("q_proj.weight")))
    save_file(tensors, tmp_path / "damaged/model.safetensors", {"format": "pt"})
    done = genkit("compress", "damaged", "--quantize", "int8", "--out", "out")
    assert done.code == 3
    assert "config.json and model.safetensors must come from the same model" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_what_is_in_out_is_kept(genkit: Run, tiny_text: Path, book: str, tmp_path: Path) -> None:
    narrow = ("compress", str(tiny_text), "--prune", "0.5", "--out", "narrow")
    assert genkit(*narrow).code == 0
    before = (tmp_path / "narrow/model.safetensors").read_bytes()
    done = genkit(*narrow)
    assert (done.code, "--force replaces it" in done.err) == (2, True)
    for method in (("--quantize", "int8"), ("--distill-into", "half", "--data", book, "--steps", "1")):
        done = genkit("compress", "narrow", *method, "--out", "./narrow/", "--force")
        assert done.code == 2
        assert "--out narrow is the model itself" in done.err
    assert (tmp_path / "narrow/model.safetensors").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    done = genkit("compress", str(tiny_text), "--quantize", "int8", "--out", "other", "--force")
    assert (done.code, "other holds other files" in done.err) == (2, True)
    assert genkit(*narrow, "--force").code == 0


def test_models_that_are_none_of_text_are_named(genkit: Run, tiny_image: Path, tmp_path: Path) -> None:
    done = genkit("compress", str(tiny_image), "--quantize", "int8", "--out", "out")
    assert done.code == 3
    assert "is an image model (genkit compress takes text models)" in done.err.replace("\n", " ")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    done = genkit("compress", "m.gguf", "--quantize", "int8", "--out", "out")
    assert done.code == 3
    assert "a GGUF file is not compressed" in done.err

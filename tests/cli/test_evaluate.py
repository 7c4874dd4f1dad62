"""`genkit eval`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit.files import read_json, write_json

Run = Callable[..., Any]
TEXT = "The cat sat on the mat.\n<|endoftext|>\nThe dog ran to the cat.\n"


@pytest.fixture
def book(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text(TEXT * 4)
    return "book.txt"


@pytest.fixture
def uniform(tiny_text: Path, tmp_path: Path) -> str:
    """A model to which every token is as likely as any other."""
    import torch

    from genkit.files import read_json, write_json
    from genkit.text.models.store import load_model, model_files
    from genkit.training.weights import save_tensors

    model = load_model(tiny_text)
    with torch.no_grad():
        model.embed.weight.zero_()
    folder = tmp_path / "uniform"
    folder.mkdir()
    shape, _, tensors = model_files(model, {})
    write_json(folder / "config.json", shape)
    save_tensors(folder / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        write_json(folder / name, read_json(tiny_text / name))
    return "uniform"


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(genkit: Run, uniform: str, book: str) -> None:
    done = genkit("eval", uniform, "--data", book, "--json")
    found = json.loads(done.out)
    vocabulary = read_json(Path(uniform) / "config.json")["vocab_size"]
    assert found["loss"] == pytest.approx(math.log(vocabulary), abs=1e-6)
    assert found["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
    # The dog ran to the cat.\nThe cat sat on the mat. is one document, and so are the first and the last line
    assert (found["bytes"], found["documents"], found["end_of_text"]) == (2 * 23 + 3 * 47, 5, 5)
    assert found["tokens"] == found["bytes"] + 5
    assert found["bits_per_byte"] == pytest.approx(math.log2(vocabulary) * found["tokens"] / found["bytes"])
    assert (found["window"], found["stride"], found["context_min"]) == (64, 32, 33)
    assert (found["model"], found["data"], found["precision"]) == ("uniform", ["book.txt"], "fp32")
    assert genkit("eval", uniform, "--data", book).text.splitlines() == [
        f"loss           {found['loss']:.4f} nats a token",
        f"perplexity     {found['perplexity']:.4g}",
        f"bits per byte  {found['bits_per_byte']:.4f}",
        "scored         192 tokens, 5 of them end-of-text; 187 bytes in 5 documents",
        "window         64 tokens, stride 32: 33 or more before each token, but at the beginning",
        "model          uniform on cpu in fp32",
    ]
    assert genkit("eval", uniform, "--data", book).err == ""


def test_the_window_is_the_users(genkit: Run, tiny_text: Path, book: str) -> None:
    def loss(*flags: str) -> float:
        done = genkit("eval", str(tiny_text), "--data", book, "--json", *flags)
        return json.loads(done.out)["loss"]  # type: ignore[no-any-return]

    assert loss("--batch-size", "1") == pytest.approx(loss(), abs=1e-6)
    assert loss("--stride", "64") == pytest.approx(loss("--stride", "64", "--batch-size", "2"), abs=1e-6)
    found = json.loads(genkit("eval", str(tiny_text), "--data", book, "--json", "--block-size", "9").out)
    assert (found["window"], found["stride"], found["context_min"]) == (9, 4, 6)


def test_several_sources_are_one_text(genkit: Run, tiny_text: Path, book: str, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"story": "The cat."}\n{"story": "A tree."}\n')
    args = ("--data", book, "--data", "more.jsonl", "--text-field", "story", "--json")
    found = json.loads(genkit("eval", str(tiny_text), *args).out)
    assert (found["documents"], found["bytes"]) == (7, 187 + 15)
    assert found["data"] == ["book.txt", "more.jsonl"]


def test_characters_that_the_tokenizer_has_not_are_told(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("The cat raß 3 tins.")
    done = genkit("eval", str(tiny_text), "--data", "other.txt", "--json")
    assert json.loads(done.out)["unknown"] == 2
    assert done.err.startswith("warning: 2 of 20 tokens stand for characters that the tokenizer")
    assert genkit("eval", str(tiny_text), "--data", "other.txt", "--json", "-q").err == ""


def test_the_bundled_model_knows_stories(genkit: Run, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time there was a little girl. She went to the park with her mom.")
    (tmp_path / "noise.txt").write_text("Zqv xk jjw, pwq brfl oox grmp tuv! Ssd vv kqnt hhy aab cff mmu ee lyz uio.")
    story, noise = (
        json.loads(genkit("eval", "story", "--data", name, "--json").out)["bits_per_byte"]
        for name in ("story.txt", "noise.txt")
    )
    assert story < 1 < 3 < noise


def test_a_run_is_measured_as_it_validated(genkit: Run, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("The cat sat on the mat. The dog ran to the cat.\n" * 200)
    (tmp_path / "val.txt").write_text("The dog sat on the cat. The cat ran to the dog.\n" * 20)
    done = genkit(
        "train-text", "--data", "train.txt", "--val-data", "val.txt", "--steps", "20", "--preset", "tiny", "--out",
        "run", "--batch-size", "4", "--no-compile", "--tokenizer", "char", "--precision", "fp32", "--json"
    )  # fmt: skip
    trained = json.loads(done.out)["metrics"]
    found = json.loads(genkit("eval", "run", "--data", "val.txt", "--stride", "128", "--json").out)
    # validation starts behind the first token and leaves out what fills no window
    assert found["loss"] == pytest.approx(trained["val_loss"], rel=0.02)
    assert found["bits_per_byte"] == pytest.approx(trained["val_bpb"], rel=0.02)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["a.gguf"], 3, "a.gguf: a .gguf file is not evaluated (name the model directory"),
        (["nowhere"], 3, "no model 'nowhere'"),
        (["TINY", "--data", "none.txt"], 3, "--data none.txt: no such file or folder"),
        (["TINY", "--data", "empty.txt"], 3, "there is no text in empty.txt"),
        (["TINY", "--data", "binary.txt"], 3, "binary.txt is binary, not text"),
        (["TINY", "--block-size", "65"], 2, "--block-size 65 is more than the model's context (use 64 or less)"),
        (["TINY", "--stride", "65"], 2, "--stride 65 is more than the window of 64 tokens (use --stride 64 or less)"),
        (["TINY", "--stride", "0"], 2, "--stride 0 is out of range"),
        (["TINY", "--max-tokens", "few"], 2, "--max-tokens"),
        (["TINY", "--precision", "int8"], 5, "--precision int8 does not work on cpu"),
        (["TINY", "--engine", "llamacpp"], 2, "is not an engine for eval"),
        (["broken"], 3, "holds numbers that are not finite"),
    ],
)
def test_refusals(
    genkit: Run, tiny_text: Path, book: str, tmp_path: Path, args: list[str], code: int, message: str
) -> None:
    for name, data in (("a.gguf", b"GGUF"), ("empty.txt", b"\n\n"), ("binary.txt", b"\0\1\2" * 99)):
        (tmp_path / name).write_bytes(data)
    if args[0] == "broken":
        damage(tiny_text, tmp_path / "broken")
    args = [str(tiny_text) if arg == "TINY" else arg for arg in args]
    done = genkit("eval", *args, *([] if "--data" in args else ["--data", book]))
    assert (done.code, done.out, done.err.count("\n")) == (code, b"", 1), done.err
    assert message in done.err


def damage(model: Path, folder: Path) -> None:
    import torch

    from genkit.training.weights import load_tensors, save_tensors

    folder.mkdir()
    tensors = load_tensors(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_tensors(folder / "model.safetensors", tensors)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        write_json(folder / name, read_json(model / name))


def test_without_data_it_says_so(genkit: Run) -> None:
    done = genkit("eval", "story")
    assert (done.code, done.err) == (2, "error: --data is missing (see genkit eval --help)\n")


def test_an_interruption_leaves_no_result(tiny_text: Path, tmp_path: Path, start_genkit: Callable[..., Any]) -> None:
    import signal

    (tmp_path / "book.txt").write_text(TEXT * 100_000)
    process = start_genkit("eval", str(tiny_text), "--data", "book.txt", "--stride", "1", "-v")
    assert "on cpu in fp32 by torch" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("error: interrupted\n")


def test_progress_is_told_now_and_then(
    genkit: Run, tiny_text: Path, book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genkit.cli import evaluate

    monkeypatch.setattr(evaluate, "INTERVAL", 0.0)
    lines = genkit("eval", str(tiny_text), "--data", book, "--batch-size", "3").err.splitlines()
    assert [line.split("%")[0].strip() for line in lines] == ["67", "100"]
    assert lines[0].split("  ")[1].startswith("128 tokens, ")
    assert genkit("eval", str(tiny_text), "--data", book, "-q").err == ""

"""The flags of fine-tuning at the shell; what they do is tested in tests/text/test_start.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--lora", "4"], 2, "--lora needs a model that is trained already (name it with --init-from)"),
        (["--freeze", "1"], 2, "--freeze needs a model that is trained already (name it with --init-from)"),
        (["--init-from", "{base}", "--lora", "4", "--freeze", "1"], 2, "--freeze does not go with --lora"),
        (["--init-from", "{base}", "--lora-alpha", "4"], 2, "--lora-alpha needs --lora"),
        (["--init-from", "{base}", "--lora-target", "q_proj"], 2, "--lora-target needs --lora"),
        (["--init-from", "{base}", "--lora", "-1"], 2, "--lora"),
        (["--init-from", "{base}", "--lora", "2", "--lora-target", "c_attn"], 2, "no such layer in qwen3 (choose from"),
        (["--init-from", "{base}", "--freeze", "all"], 2, "--freeze 'all' is not embed, a number of blocks, or both"),
        (["--init-from", "{base}", "--freeze", "9"], 2, "--freeze 9: the model has 2 blocks (use 2 or less)"),
        (["--optimizer", "adamw", "--muon-lr", "0.01"], 2, "--muon-lr says nothing about adamw (use --lr, or"),
        (["--init-from", "{base}", "--muon-lr", "0.01"], 2, "--muon-lr says nothing about adamw (use --lr, or"),
        (["--init-from", "{base}", "--n-layer", "3"], 2, "--n-layer does not go with --init-from"),
        (["--init-from", "kittens"], 3, "--init-from kittens is an image model"),
        (["--init-from", "https://example.org/x"], 3, "a model is not named by a URL"),
    ],
)
def test_refusals(run_genkit: Run, tiny_text: Path, tmp_path: Path, args: list[str], code: int, said: str) -> None:
    (tmp_path / "book.txt").write_text("the cat sat on the mat\n" * 40)
    filled = [arg.replace("{base}", str(tiny_text)) for arg in args]
    done = run_genkit("train-text", "--data", "book.txt", "--steps", "2", "--out", "run", "-q", *filled)
    assert (done.code, done.out) == (code, b"")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kind", "family"), [("bert", "masked"), ("gpt_neox", "causal")])
def test_a_model_of_another_family_is_refused_by_name(
    genkit: Run, hub_checkpoint: Callable[[str], Path], tmp_path: Path, kind: str, family: str
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("the cat sat on the mat\n" * 40)
    given = ("--data", str(book), "--steps", "2", "--out", str(tmp_path / "run"))
    done = genkit("train-text", *given, "--init-from", str(hub_checkpoint(kind)))
    assert (done.code, done.out) == (3, b""), done.err
    assert f"is a {family} model that genkit train-text does not train (name a GPT-2" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_that_began_with_a_rate_of_no_use_goes_on(genkit: Run, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the cat sat on the mat\n" * 40)
    tiny = ("--n-layer", "1", "--n-embd", "16", "--block-size", "16", "--batch-size", "2")
    started = ("--data", "book.txt", "--steps", "2", "--out", "run", "--optimizer", "adamw")
    assert genkit("train-text", *started, *tiny).code == 0
    record = json.loads((tmp_path / "run/genkit.json").read_text())
    record["config"]["muon_lr"] = 0.01  # it was once ignored
    (tmp_path / "run/genkit.json").write_text(json.dumps(record))
    done = genkit("train-text", "--resume", "--out", "run", "--steps", "3")
    assert done.code == 0, done.err


def test_a_run_of_adapters_is_resumed_with_its_own_settings(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the cat sat on the mat\n" * 40)
    args = ("--batch-size", "2", "--block-size", "16", "--lora", "2", "--lora-target", "q_proj,v_proj", "-q")
    done = genkit(
        "train-text", "--data", "book.txt", "--init-from", str(tiny_text), "--steps", "2", "--out", "run", *args
    )
    assert done.code == 0, done.err
    assert genkit("train-text", "--resume", "--out", "run", "--lora", "3").code == 2
    done = genkit("train-text", "--resume", "--out", "run", "--steps", "4", "-q")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "run/checkpoints/step-000004/adapter.safetensors").is_file()
    assert json.loads(genkit("info", "run", "--json").out)["training"]["lora"] == 2
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["target_modules"] == [
        "q_proj",
        "v_proj",
    ]

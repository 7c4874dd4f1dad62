"""`genkit train-text --init-from` an encoder-decoder: what it prints, refuses and leaves behind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
QUICK = ["--steps", "4", "--batch-size", "4", "--out", "run"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """`pairs.tsv` of 40 words and what they are backwards."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(40)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    return tmp_path


@pytest.fixture
def model(hub_checkpoint: Callable[[str], Path]) -> str:
    return str(hub_checkpoint("t5"))


def test_train_then_write(genkit: Run, pairs: Path, model: str) -> None:
    done = genkit("train-text", "--data", "pairs.tsv", "--init-from", model, *QUICK)
    assert (done.code, done.text) == (0, "run\n"), done.err
    assert " pairs to train on, " in done.err
    assert "trained 4 steps on " in done.err
    assert "try it: genkit text -m run 'some text'" in done.err
    assert {"config.json", "model.safetensors", "genkit.json", "metrics.jsonl", "checkpoints"} <= {
        path.name for path in (pairs / "run").iterdir()
    }
    on = genkit("train-text", "--resume", "--out", "run", "--steps", "6", "--json")
    assert on.code == 0, on.err
    assert "resuming at step 4" in on.err
    assert json.loads(on.out)["steps"] == 6
    written = genkit("text", "-m", "run", "abcd", "--temperature", "0", "--max-new-tokens", "4")
    assert written.code == 0, written.err


def test_a_plan_writes_nothing(genkit: Run, pairs: Path, model: str) -> None:
    done = genkit("train-text", "--data", "pairs.tsv", "--init-from", model, *QUICK, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["training_pairs"] + json.loads(done.out)["validation_pairs"] == 40
    assert not (pairs / "run").exists()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--preset", "nano"], 2, "--preset does not go with"),
        (["--block-size", "16"], 2, "use --max-source-tokens and --max-target-tokens"),
        (["--source-field", "en"], 3, "pairs.tsv:2 has no field 'en'"),
        (["--max-target-tokens", "1"], 2, "--max-target-tokens 1 is out of range"),
    ],
)
def test_what_does_not_fit_is_refused(
    genkit: Run, pairs: Path, model: str, flags: list[str], code: int, said: str
) -> None:
    done = genkit("train-text", "--data", "pairs.tsv", "--init-from", model, *QUICK, *flags)
    assert done.code == code
    assert said in done.err
    assert not (pairs / "run").exists()


def test_plain_text_is_no_pairs(genkit: Run, pairs: Path, model: str) -> None:
    (pairs / "book.jsonl").write_text('{"text": "Once upon a time."}\n')
    done = genkit("train-text", "--data", "book.jsonl", "--init-from", model, *QUICK)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "book.jsonl:1 is no pair: it has text" in done.err


def test_settings_of_pairs_do_not_go_with_a_gpt(genkit: Run, pairs: Path) -> None:
    done = genkit("train-text", "--data", "pairs.tsv", "--source-prefix", "say: ", *QUICK)
    assert done.code == 2
    assert "--source-prefix is for sequence-to-sequence models" in done.err

"""`genkit eval --metric`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def pairs(genkit: Run, tiny_text: Path, tmp_path: Path) -> list[dict[str, str]]:
    """Of which the model writes every second target itself."""
    prompts = ["The cat", "A bird", "The dog ran", "on"]
    (tmp_path / "in.txt").write_text("\n".join(prompts) + "\n")
    args = ("-m", str(tiny_text), "--input", "in.txt", "--temperature", "0", "--max-new-tokens", "9", "--seed", "1")
    lines = [json.loads(line) for line in genkit("text", *args).out.splitlines()]
    found = [
        {"source": line["prompt"], "target": line["samples"][0]["text"].strip() if i % 2 else "something else"}
        for i, line in enumerate(lines)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in found))
    return found


def test_what_is_generated_is_what_genkit_text_writes(genkit: Run, tiny_text: Path, pairs: list[Any]) -> None:
    args = ("eval", str(tiny_text), "--data", "pairs.jsonl", "--max-new-tokens", "9", "--metric", "exact,chrf")
    done = genkit(*args, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["metrics"]["exact"]["value"] == 0.5
    assert found["pairs"] == 4
    assert (found["settings"]["temperature"], found["settings"]["num_beams"]) == (0, 1)
    text = genkit(*args).text.splitlines()
    assert text[0].split() == ["exact", "0.5000", "of", "1"]
    assert text[-1].startswith("4 pairs, ")
    beams = genkit(*args, "--json", "--num-beams", "2")
    assert json.loads(beams.out)["settings"]["num_beams"] == 2


def test_an_encoder_decoder_is_measured_by_what_it_generates(
    genkit: Run, hub_checkpoint: Run, pairs: list[Any]
) -> None:
    args = ("eval", str(hub_checkpoint("t5")), "--data", "pairs.jsonl", "--max-new-tokens", "5", "--json")
    done = genkit(*args)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert list(found["metrics"]) == ["bleu", "chrf"]
    assert (found["engine"], found["settings"]["temperature"]) == ("torch", 0)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--metric", "bleu", "--stride", "4"], 2, "--stride is not about what a model generates"),
        (["--num-beams", "4"], 2, "--num-beams is about what a model generates (add --metric"),
        (["--metric", "blue"], 2, "--metric 'blue' is no metric (did you mean 'bleu'?)"),
        (["--metric", "bleu", "--source-field", "q"], 3, "pairs.jsonl:1 has no field 'q'"),
        (["--metric", "bleu", "--data", "long.jsonl"], 3, "long.jsonl:1: the prompt has"),
    ],
)
def test_mistakes_are_named(
    genkit: Run, tiny_text: Path, pairs: list[Any], tmp_path: Path, args: list[str], code: int, message: str
) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"source": "The cat " * 30, "target": "x"}) + "\n")
    data = [] if "--data" in args else ["--data", "pairs.jsonl"]
    done = genkit("eval", str(tiny_text), *data, *args)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err

"""`genkit fill` from the shell."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_causal_model_fills_a_gap_at_the_end(genkit: Run, tiny_text: Path) -> None:
    done = genkit("fill", "-m", str(tiny_text), "The cat [MASK]", "-k", "3")
    assert done.code == 0, done.err
    rows = [line.split("\t") for line in done.text.splitlines()]
    assert len(rows) == 3
    assert all(filled.startswith("The cat") for *_, filled in rows)
    shares = [float(share) for share, *_ in rows]
    assert shares == sorted(shares, reverse=True)


def test_it_gives_the_models_own_probabilities(genkit: Run, tiny_text: Path) -> None:
    """Whatever the model recommends for sampling, on either engine."""
    import torch

    from genkit.text.models.store import load_model
    from genkit.text.tokenizer import Tokenizer

    model, tokenizer = load_model(tiny_text).eval(), Tokenizer.load(tiny_text)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode("The cat")]))[0, -1]
    expected = logits.softmax(-1).topk(5)
    for engine in ("llamacpp", "torch"):
        done = genkit("fill", "-m", str(tiny_text), "The cat [MASK]", "--json", "--engine", engine)
        (gap,) = json.loads(done.out)["gaps"]
        assert [each["token"] for each in gap] == expected.indices.tolist()
        assert [each["probability"] for each in gap] == pytest.approx(expected.values.tolist(), abs=1e-4)
        assert all(each["filled"] == "The cat" + each["text"] for each in gap)


def test_the_bundled_model_knows_how_stories_begin(genkit: Run) -> None:
    done = genkit("fill", "Once upon a [MASK]", "-k", "1")
    assert done.text.split("\t")[1:] == ["time", "Once upon a time\n"]
    assert float(done.text.split("\t")[0]) > 0.9


def test_lines_and_files(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "The [MASK]", "id": "x"}\n{"text": "none"}\n{"text": "[MASK] a"}\n7\n')
    done = genkit("fill", "-m", str(tiny_text), "--input", "a.jsonl", "--output", "b.jsonl", "-k", "2")
    assert (done.code, done.text) == (7, "b.jsonl\n")
    values = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [len(value.get("gaps", [])) for value in values] == [1, 0, 0, 0]
    assert (values[0]["id"], len(values[0]["gaps"][0])) == ("x", 2)
    assert values[1]["error"]["message"].startswith("a.jsonl:2: there is no gap")
    assert "a.jsonl:3: 'a' stands behind the gap" in done.err
    (tmp_path / "a.txt").write_text("The [MASK]\nA [MASK]\n")
    plain = genkit("fill", "-m", str(tiny_text), "--input", "a.txt", "-k", "1")
    several = genkit("fill", "-m", str(tiny_text), "The [MASK]", "A [MASK]", "-k", "1")
    assert plain.text == several.text
    assert plain.text.count("\n") == 2


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["x"], 3, "there is no gap in 'x' (write [MASK] where a word is missing)"),
        (["a [MASK] b"], 3, "'b' stands behind the gap, and a causal model sees only what is before it"),
        (["[MASK] [MASK]"], 3, "a causal model fills one, at the end"),
        (["-m", "kittens", "[MASK]"], 3, "kittens is an image model and fills no gaps"),
        (["x [MASK]", "-k", "0"], 2, "--top-k 0 is out of range"),
        (["x [MASK]", "--input", "a.txt"], 2, "--input holds the texts"),
        (["x [MASK]", "--engine", "onnx"], 2, "--engine 'onnx' is not an engine"),
    ],
)
def test_what_is_refused(genkit: Run, args: list[str], code: int, message: str) -> None:
    done = genkit("fill", *args)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_a_masked_model_fills_gaps_anywhere(genkit: Run, hub_checkpoint: Callable[[str], Path]) -> None:
    model = str(hub_checkpoint("bert"))
    done = genkit("fill", "-m", model, "the [MASK] sat on the [MASK] .", "-k", "2")
    assert done.code == 0, done.err
    assert done.err == ""
    assert [line.split("\t")[0] for line in done.text.splitlines()] == ["1", "1", "2", "2"]
    found = json.loads(genkit("fill", "-m", model, "the [MASK] sat", "--json", "-k", "100").out)["gaps"]
    assert math.fsum(each["probability"] for each in found[0]) <= 1 + 1e-6
    done = genkit("fill", "-m", model, "the cat sat")
    assert (done.code, "there is no gap" in done.err) == (3, True)
    done = genkit("fill", "-m", model, "the [MASK]", "--engine", "llamacpp")
    assert (done.code, "--engine 'llamacpp' is not an engine for fill" in done.err) == (2, True)


def test_other_kinds_of_models_are_named(genkit: Run, hub_checkpoint: Callable[[str], Path]) -> None:
    model = str(hub_checkpoint("t5"))
    done = genkit("fill", "-m", model, "the [MASK]")
    assert (done.code, done.out) == (3, b"")
    assert "is a sequence-to-sequence model and fills no gaps (genkit text -m" in done.err

"""`genkit audit`, and a classifier as the judge of a filter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
LINES = [
    {"template": "The {group} sat", "groups": ["cat", "dog", "bird"], "continuations": [" on the mat", " in"]},
    {"template": "A {group} ran", "groups": ["cat", "dog", "bird"], "continuations": [" to the tree"]},
]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return "t.jsonl"


@pytest.fixture(scope="module")
def opinion(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with strong opinions on no grounds."""
    import torch

    from genkit.files import write_json
    from genkit.library import WEIGHTS
    from genkit.text.classify.model import gpt_classifier
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "opinion"
    folder.mkdir()
    torch.manual_seed(3)
    model = gpt_classifier(tiny_text, ("bad", "good"))
    model.score.weight.data.normal_(std=1.0)
    files = model.files()
    save_tensors(folder / WEIGHTS, files.tensors, {"format": "pt"})
    for name, value in files[1].items():
        write_json(folder / name, value)
    for name, data in files[2].items():
        (folder / name).write_bytes(data)
    return folder


def test_groups_are_compared_with_the_first(genkit: Run, tiny_text: Path, prompts: str) -> None:
    done = genkit("audit", str(tiny_text), "--prompts", prompts)
    assert done.code == 0, done.err
    lines = done.text.splitlines()
    assert lines[0] == "log-probability of 3 continuations, nats"
    assert [line.split()[0] for line in lines[2:5]] == ["cat", "dog", "bird"]
    assert "less cat" in lines[1]
    assert " to " in lines[3]
    assert lines[5] == "widest differences:"
    assert "What this does not show" in lines[-1]
    again = genkit("audit", str(tiny_text), "--prompts", prompts)
    assert again.out == done.out


def test_json_adds_up(genkit: Run, tiny_text: Path, prompts: str) -> None:
    found = json.loads(genkit("audit", str(tiny_text), "--prompts", prompts, "--json").out)
    said = found["likelihood"]
    for group in found["groups"]:
        own = [item["logprob"][group] for item in said["continuations"]]
        assert said["means"][group] == pytest.approx(sum(own) / 3)
    assert said["differences"]["dog"]["value"] == pytest.approx(said["means"]["dog"] - said["means"]["cat"])
    assert found["classifier"] is None


def test_models_of_other_architectures(genkit: Run, hub_checkpoint: Run, prompts: str) -> None:
    done = genkit("audit", str(hub_checkpoint("gpt_neox")), "--prompts", prompts, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["likelihood"]["items"] == 3
    for kind in ("bert", "t5"):
        done = genkit("audit", str(hub_checkpoint(kind)), "--prompts", prompts)
        assert done.code == 3
        assert f"{kind} is no causal language model, so continuations have no probability" in done.err


def test_a_classifier_reads_sampled_continuations(genkit: Run, tiny_text: Path, prompts: str, opinion: Path) -> None:
    args = ("audit", str(tiny_text), "--prompts", prompts, "--samples", "4", "--max-new-tokens", "6")
    more = ("--classifier", str(opinion), "--label", "good")
    done = genkit(*args, *more, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["classifier"]
    assert (found["items"], found["samples"], found["label"]) == (2, 4, "good")
    assert all(0 < mean < 1 for mean in found["means"].values())
    assert genkit(*args, *more, "--json").out == done.out
    assert "probability of good, 4 samples of each prompt" in genkit(*args, *more).text
    done = genkit(*args, "--classifier", str(opinion), "--label", "goood")
    assert done.code == 2
    assert "--label 'goood' is no class of" in done.err


def test_a_classifier_judges_texts(genkit: Run, tiny_text: Path, opinion: Path) -> None:
    args = ("text", "-m", str(tiny_text), "The", "-n", "6", "--seed", "1", "--max-new-tokens", "6", "--json")
    judge = ("--filter-model", str(opinion), "--filter-label")
    assert json.loads(genkit(*args).out)["samples"]
    good, bad = (json.loads(genkit(*args, *judge, label, "--filter-attempts", "1").out) for label in ("good", "bad"))
    passed = [{sample["index"] for sample in found["samples"]} for found in (good, bad)]
    assert passed[0] | passed[1] == set(range(6))  # a text is one or the other
    assert good["filter"]["by"] == {"model": 6 - len(passed[0])}
    done = genkit(*args, *judge, "ugly")
    assert done.code == 2
    assert "--filter-label 'ugly' is no class of" in done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["story"], 2, "--prompts is missing"),
        (["story", "--prompts", "none.jsonl"], 3, "none.jsonl: no such file"),
        (["kittens", "--prompts", "t.jsonl"], 3, "kittens is an image model"),
        (["story", "--prompts", "bare.jsonl"], 3, "bare.jsonl:1 has no continuations"),
        (["story", "--prompts", "t.jsonl", "--label", "x"], 2, "--label needs --classifier"),
        (["story", "--prompts", "t.jsonl", "--classifier", "story", "--label", "x"], 3, "story is no classifier"),
    ],
)
def test_mistakes_are_named(
    genkit: Run, prompts: str, tmp_path: Path, args: list[str], code: int, message: str
) -> None:
    (tmp_path / "bare.jsonl").write_text(json.dumps({"template": "The {group}", "groups": ["a", "b"]}) + "\n")
    done = genkit("audit", *args)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_a_continuation_that_joins_a_word_is_noted(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    line = LINES[0] | {"continuations": ["on"]}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    done = genkit("audit", str(tiny_text), "--prompts", "t.jsonl")
    assert done.code == 0
    assert "t.jsonl:1: 'on' begins without a blank" in done.err

"""`genkit train-classifier`, `classify` and `eval` of a classifier, from the shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
ANIMALS = {"cat": "The cat sat on the {}.", "dog": "The dog ran to the {}."}
PLACES = ("mat", "tree", "bird", "song", "stone", "sea", "sand", "oak", "barn", "den", "hat", "tent")
ROWS = [{"text": line.format(place), "label": name} for place in PLACES for name, line in ANIMALS.items()]


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return "a.jsonl"


@pytest.fixture(scope="session")
def classifier(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells cats from dogs."""
    from genkit.runtime.device import resolve
    from genkit.runtime.manager import Runtime
    from genkit.text.classify.config import ClassifyTrainConfig
    from genkit.text.classify.train import train_classifier
    from genkit.training.log import Loggers

    folder = tmp_path_factory.mktemp("classifier")
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = ClassifyTrainConfig(
        data=(str(folder / "a.jsonl"),), init_from=str(tiny_text), out=str(folder / "run"), steps=60, batch_size=4,
        lr=3e-3, head_lr=1e-2, val_fraction=0.0,
    )  # fmt: skip
    with Runtime(resolve("cpu", "fp32", task="train-classifier")) as runtime:
        train_classifier(config, runtime, Loggers())
    return folder / "run"


def test_train_classify_eval(genkit: Run, data: str, tiny_text: Path, tmp_path: Path) -> None:
    train = ("train-classifier", "--data", data, "--init-from", str(tiny_text), "--batch-size", "4", "--steps", "3")
    plan = genkit(*train, "--dry-run")
    assert plan.code == 0, plan.err
    assert "training_examples: 22" in plan.text
    assert not (tmp_path / "run").exists()
    done = genkit(*train, "--out", "run")
    assert (done.code, done.text) == (0, "run\n"), done.err
    assert "always naming the most frequent class would give 0.5000" in done.err
    assert done.err.splitlines()[-1] == "try it: genkit classify -m run 'some text'"
    done = genkit("train-classifier", "--resume", "--out", "run", "--steps", "5")
    assert "resuming at step 3, 12 examples" in done.err
    assert genkit("classify", "-m", "run", "A cat").code == 0
    assert genkit("eval", "run", "--data", data).code == 0
    assert "--steps and --budget" not in done.err
    wrong = genkit("train-text", "--resume", "--out", "run", "--steps", "9")
    assert (wrong.code, "use genkit train-classifier --resume --out run" in wrong.err) == (3, True)


def test_one_text_gives_every_class(genkit: Run, classifier: Path) -> None:
    done = genkit("classify", "-m", str(classifier), "The dog ran to the mat.")
    assert done.code == 0, done.err
    rows = [line.split("\t") for line in done.text.splitlines()]
    assert [name for name, _ in rows] == ["dog", "cat"]
    assert sum(float(share) for _, share in rows) == pytest.approx(1, abs=2e-4)


def test_lines_give_a_line_each(genkit: Run, run_genkit: Run, classifier: Path, tmp_path: Path) -> None:
    done = run_genkit(
        "classify", "-m", str(classifier), input=b"The cat sat on the den.\n\nThe dog ran to the hat.\r\n"
    )
    assert [line.split("\t")[::2] for line in done.text.splitlines()] == [
        ["cat", "The cat sat on the den."],
        ["dog", "The dog ran to the hat."],
    ]
    assert genkit("classify", "-m", str(classifier), "The cat", "The dog").text.count("\n") == 2
    (tmp_path / "a.txt").write_text("The cat\n")
    done = genkit("classify", "-m", str(classifier), "--input", "a.txt", "--output", "b.txt")
    assert done.text == "b.txt\n"
    assert (tmp_path / "b.txt").read_text().endswith("\tThe cat\n")
    assert genkit("classify", "-m", str(classifier), "x", "--output", "b.txt", "--no-clobber").code == 4


def test_json_lines_keep_their_ids_and_bad_ones_are_told(genkit: Run, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "The cat sat on the mat.", "id": 7}\n{"id": "b"}\n"The dog"\nnot json\n{"text": ""}\n'
    )
    done = genkit("classify", "-m", str(classifier), "--input", "a.jsonl")
    assert done.code == 7
    values = [json.loads(line) for line in done.text.splitlines()]
    assert [value["id"] for value in values] == [7, "b", None, None, None]
    assert values[0]["label"] == "cat"
    assert list(values[0]["probabilities"]) == ["cat", "dog"]
    assert "a.jsonl:2 has no field 'text'" in values[1]["error"]["message"]
    assert "a.jsonl:4 is not valid JSON" in done.err
    assert done.err.splitlines()[-1].startswith("error: 3 of 5 lines were refused")


def test_pairs(genkit: Run, classifier: Path, tmp_path: Path) -> None:
    pair = genkit("classify", "-m", str(classifier), "The cat", "--pair", "The dog", "--json")
    joined = genkit("classify", "-m", str(classifier), "The cat\nThe dog", "--json")
    assert json.loads(pair.out)["probabilities"] == json.loads(joined.out)["probabilities"]
    (tmp_path / "a.jsonl").write_text('{"text": "The cat", "other": "The dog"}\n')
    lines = genkit("classify", "-m", str(classifier), "--input", "a.jsonl", "--pair-field", "other")
    assert json.loads(lines.out)["pair"] == "The dog"
    assert json.loads(lines.out)["probabilities"] == json.loads(pair.out)["probabilities"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["x"], 2, "-m/--model is missing"),
        (["-m", "story", "x"], 3, "story is a causal language model, not a classifier (make one of it"),
        (["-m", "kittens", "x"], 3, "kittens is an image model, not a classifier"),
        (["-m", "RUN", " "], 3, "TEXT is empty"),
        (["-m", "RUN", "x", "--input", "a.txt"], 2, "--input holds the texts"),
        (["-m", "RUN", "x", "y", "--pair", "z"], 2, "--pair needs one TEXT"),
        (["-m", "RUN", "x", "--pair-field", "z"], 2, "--pair-field is a field of .jsonl lines"),
        (["-m", "RUN", "--input", "a.csv"], 2, ".csv is neither .txt nor .jsonl"),
        (["-m", "RUN", "--input", "none.jsonl"], 3, "cannot read none.jsonl"),
    ],
)
def test_what_is_refused(genkit: Run, classifier: Path, args: list[str], code: int, message: str) -> None:
    done = genkit("classify", *(str(classifier) if arg == "RUN" else arg for arg in args))
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_eval_prints_the_measures(genkit: Run, classifier: Path, data: str, tmp_path: Path) -> None:
    found = json.loads(genkit("eval", str(classifier), "--data", data, "--json").out)
    assert (found["accuracy"], found["macro_f1"], found["examples"]) == (1, 1, 24)
    assert found["confusion"] == [[12, 0], [0, 12]]
    table = genkit("eval", str(classifier), "--data", data).text
    assert "accuracy       1.0000" in table
    assert table.splitlines()[-2].split() == ["cat", "12", "0"]
    (tmp_path / "b.csv").write_text("body,kind\nThe cat,cat\nThe cow,cow\n")
    fields = ("--text-field", "body", "--label-field", "kind")
    done = genkit("eval", str(classifier), "--data", "b.csv", *fields)
    assert (done.code, "b.csv:3: the label 'cow' is not a class" in done.err) == (3, True)
    for flag in ("--stride", "--max-tokens", "--n"):
        done = genkit("eval", str(classifier), "--data", data, flag, "4")
        assert (done.code, f"{flag} is not for" in done.err) == (2, True)
    done = genkit("eval", "story", "--data", data, "--label-field", "kind")
    assert (done.code, "--label-field is for classifiers" in done.err) == (2, True)


def test_training_data_that_is_refused(genkit: Run, data: str, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "x", "label": "a"}\n')
    (tmp_path / "few.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}\n')
    for args, code, message in (
        ([], 2, "--data is missing"),
        (["--data", "none"], 3, "none: no such file or folder"),
        (["--data", "one.jsonl"], 3, "all 1 examples have the label 'a'"),
        (["--data", "few.jsonl"], 3, "few.jsonl:1: the class 'a' has this one text"),
        (["--data", data, "--label-field", "kind"], 3, "a.jsonl:1 has no field 'kind'"),
        (["--data", data, "--init-from", "kittens"], 3, "--init-from kittens is an image model"),
        (["--data", data, "--steps", "3", "--epochs", "1"], 2, "--steps and --epochs both say when to stop"),
    ):
        done = genkit("train-classifier", *args, "--out", "run")
        assert (done.code, message in done.err) == (code, True), done.err
        assert not (tmp_path / "run").exists()

"""Classifiers of other architectures: what is trained is what `transformers` loads."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genkit.errors import InputError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.classify.asking import ask
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.predict import load_classifier
from genkit.text.classify.train import train_classifier
from genkit.text.models.store import WEIGHTS
from genkit.text.questions import Question
from genkit.training.log import Loggers
from genkit.training.weights import load_tensors, save_tensors

Checkpoint = Callable[[str], Path]
ROWS = [{"text": f"the cat {'sat' if i % 2 else 'ran'} {i}", "label": i % 2} for i in range(16)]


def train(config: ClassifyTrainConfig, *, resume: bool = False) -> None:
    with Runtime(resolve("cpu", "fp32", task="train-classifier"), seed=config.seed) as runtime:
        train_classifier(config, runtime, Loggers(), resume=resume)


@pytest.fixture
def config(tmp_path: Path) -> ClassifyTrainConfig:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return ClassifyTrainConfig(
        data=(str(tmp_path / "a.jsonl"),), out=str(tmp_path / "run"), steps=4, batch_size=4, lr=1e-3, save_interval=2
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt_neox", "t5", "bart"])
def test_the_run_is_a_model_of_transformers(
    kind: str, hub_checkpoint: Checkpoint, config: ClassifyTrainConfig, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    train(config.replace(init_from=str(hub_checkpoint(kind))))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    assert theirs.config.id2label == {0: "0", 1: "1"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    texts, pairs = ["the cat sat", "a dog ran to the tree and sang"], ["the dog", "a cat"]
    runtime, ours = Runtime(resolve("cpu", "fp32", task="classify")), load_classifier(tmp_path / "run")
    for questions, inputs in (
        ([Question(text) for text in texts], tokenizer(texts, padding=True, return_tensors="pt")),
        (
            [Question(text, pair) for text, pair in zip(texts, pairs, strict=True)],
            tokenizer(texts, pairs, padding=True, return_tensors="pt"),
        ),
    ):
        with torch.no_grad():
            expected = theirs(**inputs).logits.softmax(-1)
        found = [[answer.probabilities[name] for name in "01"] for answer in ask(ours, questions, runtime)]
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-5)


def test_an_interrupted_run_ends_bit_for_bit_like_a_straight_one(
    hub_checkpoint: Checkpoint, config: ClassifyTrainConfig, tmp_path: Path
) -> None:
    config = config.replace(init_from=str(hub_checkpoint("bert")))  # with dropout
    train(config)
    digests = []
    again = config.replace(out=str(tmp_path / "again"))
    train(again)
    newest = sorted((tmp_path / "again/checkpoints").iterdir())[-1]
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()  # as if it had been killed before the last one
    train(again, resume=True)
    for run in ("run", "again"):
        newest = sorted((tmp_path / run / "checkpoints").iterdir())[-1]
        files = [*sorted(newest.glob("*.safetensors")), tmp_path / run / "model.safetensors"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


def test_long_texts_are_cut_to_the_context(hub_checkpoint: Checkpoint) -> None:
    for kind in ("bert", "roberta"):
        model = load_classifier(hub_checkpoint(kind), ("a", "b")).eval()
        (row,) = model.encode(["the cat " * 2000])
        assert row.shape[1] == model.max_length <= model.context
        with torch.no_grad():
            assert torch.isfinite(model(model.padded([row]))).all()


def test_what_is_no_classifier_is_refused(hub_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="is no classifier"):
        load_classifier(hub_checkpoint("bert"))


def test_weights_that_do_not_fit_are_refused_whatever_is_new(hub_checkpoint: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(hub_checkpoint("bert"), tmp_path / "model")
    tensors = load_tensors(tmp_path / "model" / WEIGHTS)
    name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    for wrong in (tensors | {name: tensors[name][:-1]}, {key: t for key, t in tensors.items() if key != name}):
        save_tensors(tmp_path / "model" / WEIGHTS, wrong, {"format": "pt"})
        with pytest.raises(InputError, match="missing or has another shape"):
            load_classifier(tmp_path / "model", ("a", "b"))

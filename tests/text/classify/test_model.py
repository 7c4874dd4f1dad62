"""A head on our GPT is what `transformers` builds from the same files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.files import write_json
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.classify.model import Classifier, GPTClassifier, gpt_classifier
from genkit.text.classify.predict import load_classifier, logits_of, probabilities
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT
from genkit.text.models.store import WEIGHTS
from genkit.text.tokenizer import train_char
from genkit.training.weights import load_tensors, save_tensors

CLASSES = ("cat", "dog", "bird")
TEXTS = ["The cat sat", "The dog ran to the cat.", "A", "A bird sang in the tree."]
SHAPE = GPTConfig(
    vocab_size=40, block_size=32, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, head_dim=8, n_inner=48, eos_id=0
)
SHAPES = {
    "qwen3": SHAPE,
    "llama": replace(SHAPE, arch="llama", tie_embeddings=False),
    "gpt2": replace(SHAPE, arch="gpt2", n_kv_head=4),
}


def save(model: Classifier, folder: Path) -> None:
    files = model.files()
    folder.mkdir()
    save_tensors(folder / WEIGHTS, files.tensors, {"format": "pt"})
    for name, value in files.json.items():
        write_json(folder / name, value)
    for name, data in files.raw.items():
        (folder / name).write_bytes(data)


def made(arch: str, max_length: int = 20) -> GPTClassifier:
    tokenizer = train_char(TEXTS)
    torch.manual_seed(1)
    gpt = GPT(replace(SHAPES[arch], vocab_size=tokenizer.vocab_size, tie_embeddings=True))
    with torch.no_grad():  # the new projections are zero and would hide a wrong layout
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = GPTClassifier(gpt, tokenizer, CLASSES, max_length)
    torch.nn.init.normal_(model.score.weight)
    return model.eval()


@pytest.mark.parametrize("arch", SHAPES)
def test_logits_equal_those_of_transformers(arch: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ours = made(arch)
    save(ours, tmp_path / "model")
    theirs, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 20  # the longest is cut where ours cuts it
    with torch.no_grad():
        expected = theirs.eval()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        found = ours(ours.padded(ours.encode(TEXTS)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    again = load_classifier(tmp_path / "model").eval()
    assert (again.classes, again.max_length) == (CLASSES, 20)
    torch.testing.assert_close(again(again.padded(again.encode(TEXTS))), found)


def test_padding_and_neighbours_change_nothing() -> None:
    model = made("qwen3")
    rows = model.encode(TEXTS)
    runtime = Runtime(resolve("cpu", "fp32", task="classify"))
    together = logits_of(model, rows, runtime, batch_size=4)
    alone = np.concatenate([logits_of(model, [row], runtime) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[1])


def test_the_state_read_is_that_of_the_last_token() -> None:
    model = made("llama")
    (row,) = model.encode(["The cat"])
    hidden = model.gpt.hidden(torch.from_numpy(row[:1]))
    expected = hidden[:, -1] @ model.score.weight.T
    rows = [row, *model.encode(["The cat sat"])]
    torch.testing.assert_close(model(model.padded(rows))[:1], expected)


def test_pairs_are_one_text_of_two_lines() -> None:
    model = made("gpt2", max_length=100)
    (pair,), (joined,) = model.encode(["A cat"], ["A dog"]), model.encode(["A cat\nA dog"])
    assert pair.tolist() == joined.tolist()


def test_a_language_model_gets_a_new_head(tiny_text: Path) -> None:
    model = gpt_classifier(tiny_text, ("a", "b"))
    assert model.score.weight.shape == (2, 32)
    assert (model.context, model.max_length) == (64, 64)
    with pytest.raises(InputError, match=r"no score.weight, so this is no classifier"):
        gpt_classifier(tiny_text)


def test_a_head_is_kept_for_the_same_classes_and_made_anew_for_others(tmp_path: Path) -> None:
    ours = made("qwen3")
    save(ours, tmp_path / "model")
    kept, new = (gpt_classifier(tmp_path / "model", classes) for classes in (CLASSES, ("x", "y", "z")))
    assert torch.equal(kept.score.weight, ours.score.weight)
    assert not torch.allclose(new.score.weight, ours.score.weight)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save(made("qwen3"), tmp_path / "model")
    tensors = load_tensors(tmp_path / "model" / WEIGHTS)
    save_tensors(tmp_path / "model" / WEIGHTS, tensors | {"score.weight": torch.zeros(2, 32)})
    with pytest.raises(InputError, match=r"score.weight is \[2, 32\], not \[3, 32\]"):
        load_classifier(tmp_path / "model")
    save_tensors(tmp_path / "model" / WEIGHTS, tensors | {"score.weight": torch.full((3, 32), float("nan"))})
    with pytest.raises(InputError, match="not finite"):
        load_classifier(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    write_json(tmp_path / "model/config.json", config | {"id2label": {"1": "a", "2": "b"}})
    with pytest.raises(InputError, match="id2label does not number"):
        load_classifier(tmp_path / "model")


def test_probabilities_sum_to_one() -> None:
    shares = probabilities(np.array([[0.0, np.log(3.0)], [1e4, 0.0]]))
    np.testing.assert_allclose(shares, [[0.25, 0.75], [1, 0]])

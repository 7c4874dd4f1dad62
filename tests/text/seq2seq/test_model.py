"""Loss and files of encoder-decoders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.files import write_json
from genkit.text.losses import IGNORE
from genkit.text.seq2seq.model import Seq2Seq, load_seq2seq
from genkit.training.weights import save_tensors

KINDS = ("t5", "bart", "marian")
Make = Callable[[str], Path]


def _padded(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[IGNORE] * (longest - len(row))] for row in rows])


def _rows(model: Seq2Seq) -> tuple[list[list[int]], list[list[int]]]:
    sources, _ = model.encode(["abcde", "fg", "h"], targets=False, limit=20)
    targets, _ = model.encode(["x", "wxyz", "vu"], targets=True, limit=20)
    return sources, targets


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_count(seq2seq_model: Make, kind: str) -> None:
    model = load_seq2seq(seq2seq_model(kind)).eval()
    sources, targets = _rows(model)
    with torch.no_grad():
        together = model(_padded(sources), _padded(targets)).item()
        alone = [model(_padded([x]), _padded([y])).item() * len(y) for x, y in zip(sources, targets, strict=True)]
    assert together == pytest.approx(sum(alone) / sum(map(len, targets)), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_reads_the_targets_behind_its_start_token(seq2seq_model: Make, kind: str) -> None:
    model = load_seq2seq(seq2seq_model(kind)).eval()
    sources, targets = _rows(model)
    seen: dict[str, Any] = {}
    model.body.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        ours = model(_padded(sources), _padded(targets)).item()
        read, mask = seen["decoder_input_ids"], seen["attention_mask"]
        theirs = model.body(input_ids=seen["input_ids"], attention_mask=mask, labels=_padded(targets)).loss.item()
    start, pad = model.body.config.decoder_start_token_id, model.pad_id
    longest = max(map(len, targets))
    assert read.tolist() == [[start, *y, *[pad] * longest][:longest] for y in targets]
    assert mask.tolist() == [[1] * len(x) + [0] * (len(sources[0]) - len(x)) for x in sources]
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_smoothing_counts_in_training_alone(seq2seq_model: Make) -> None:
    plain = load_seq2seq(seq2seq_model("t5"), dropout=0.0)
    smooth = load_seq2seq(seq2seq_model("t5"), dropout=0.0, label_smoothing=0.1)
    x, y = map(_padded, _rows(plain))
    with torch.no_grad():
        logits = plain.body(
            input_ids=x.masked_fill(x < 0, 0), attention_mask=(x >= 0).long(), labels=y, use_cache=False
        ).logits
        logs = logits.log_softmax(-1)[y != IGNORE]
        expected = 0.9 * plain(x, y).item() - 0.1 * logs.mean(-1).mean().item()
        assert smooth.train()(x, y).item() == pytest.approx(expected, abs=1e-5)
        assert smooth.eval()(x, y).item() == pytest.approx(plain.eval()(x, y).item(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_the_models_own_unless_another_is_asked_for(seq2seq_model: Make, kind: str) -> None:
    def spread(**how: Any) -> float:
        model = load_seq2seq(seq2seq_model(kind), **how).train()
        x, y = map(_padded, _rows(model))
        torch.manual_seed(0)
        with torch.no_grad():
            return abs(model(x, y).item() - model(x, y).item())

    assert spread() > 1e-4
    assert spread(dropout=0.3) > 1e-4
    assert spread(dropout=0.0) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_was_loaded(hub_checkpoint: Make, tmp_path: Path, kind: str) -> None:
    model = load_seq2seq(hub_checkpoint(kind)).eval()
    files = model.files()
    for name, data in files.raw.items():
        (tmp_path / name).write_bytes(data)
    for name, value in files.json.items():
        write_json(tmp_path / name, value)
    save_tensors(tmp_path / "model.safetensors", files.tensors, {"format": "pt"})
    again = load_seq2seq(tmp_path).eval()
    texts = ["the cat", "a dog sat"]
    for side in (False, True):
        assert again.encode(texts, targets=side, limit=30) == model.encode(texts, targets=side, limit=30)
    x, y = (_padded(model.encode(texts, targets=side, limit=30)[0]) for side in (False, True))
    with torch.no_grad():
        assert again(x, y).item() == model(x, y).item()
    assert again.write(x.clamp(min=0).tolist(), 5, torch.device("cpu")) == model.write(
        x.clamp(min=0).tolist(), 5, torch.device("cpu")
    )


def test_a_model_of_another_kind_is_refused(hub_checkpoint: Make) -> None:
    with pytest.raises(InputError, match="transformers does not load the model"):
        load_seq2seq(hub_checkpoint("gpt2"))


def test_pickled_weights_are_refused(seq2seq_model: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(seq2seq_model("t5"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights"):
        load_seq2seq(folder)


def test_a_tokenizer_of_another_model_is_refused(seq2seq_model: Make, hub_checkpoint: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(seq2seq_model("t5"), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(hub_checkpoint("t5") / name, folder / name)
    with pytest.raises(InputError, match=r"the tokenizer has \d+ tokens, the model 30"):
        load_seq2seq(folder)

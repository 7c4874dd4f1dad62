"""The loop on pairs, with tiny models."""

from __future__ import annotations

import hashlib
import json
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from genkit.errors import InputError, Interrupted, TrainingStopped, UsageError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text import supervised
from genkit.text.seq2seq.batches import Batches
from genkit.text.seq2seq.data import prepare
from genkit.text.seq2seq.model import load_seq2seq
from genkit.text.seq2seq.plan import plan
from genkit.text.seq2seq.start import bounded
from genkit.text.seq2seq.train import train_seq2seq
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.log import Progress, TrainReport

KINDS = ("t5", "bart", "marian")


class Recorder:
    """A logger that can pull a trigger at a step."""

    def __init__(self, at: int | None = None, action: Any = None) -> None:
        self.at, self.action = at, action
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.said: list[str] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        self.losses.append(progress.values["loss"])
        if progress.step == self.at:
            self.action()

    def message(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        pass


@pytest.fixture
def config(tmp_path: Path, pairs_file: Path, seq2seq_model: Callable[[str], Path]) -> TextTrainConfig:
    return TextTrainConfig(
        data=(str(pairs_file),), init_from=str(seq2seq_model("t5")), out=str(tmp_path / "run"), steps=12, lr=3e-3,
        batch_size=8, eval_tokens=64, save_interval=5, eval_interval=6, sample_interval=6,
    )  # fmt: skip


def run(
    config: TextTrainConfig, logger: Recorder | None = None, *, precision: str = "fp32", **how: bool
) -> TrainReport:
    with Runtime(resolve("cpu", precision, task="train-text"), seed=config.seed) as runtime:
        return train_seq2seq(config, runtime, logger or Recorder(), **how)


def digests(folder: Path) -> dict[str, str]:
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = [*newest.glob("*.safetensors"), folder / "model.safetensors"]
    return {
        path.name if path.parent == newest else "published": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_it_learns_two_hundred_pairs_by_heart(config: TextTrainConfig, tmp_path: Path, words: list[str]) -> None:
    recorder = Recorder()
    quiet = {"eval_interval": 10_000, "sample_interval": 10_000, "save_interval": 10_000}
    report = run(config.replace(steps=400, batch_size=50, val_fraction=0.0, dropout=0.0, lr=5e-3, **quiet), recorder)
    assert recorder.losses[0] == pytest.approx(math.log(30), rel=0.4)
    assert report.metrics["loss"] < 0.01
    tokens = sum(len(word) + 2 for word in words)
    assert recorder.said[0] == f"200 pairs to train on, 0 held out; {tokens:,} source and {tokens:,} target tokens"

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = (of.from_pretrained(tmp_path / "run") for of in (AutoModelForSeq2SeqLM, AutoTokenizer))
    asked = words[::5]
    found = model.eval().generate(**tokenizer(asked, padding=True, return_tensors="pt"), max_new_tokens=8)
    written = tokenizer.batch_decode(found, skip_special_tokens=True)
    right = sum(text == word[::-1] for text, word in zip(written, asked, strict=True))
    assert right >= 38, written
    assert model.config.dropout_rate == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_those_of_a_plain_loop(
    config: TextTrainConfig, seq2seq_model: Callable[[str], Path], words: list[str], kind: str
) -> None:
    folder = seq2seq_model(kind)
    config = config.replace(
        init_from=str(folder), dropout=0.0, schedule="constant", warmup=0.0, weight_decay=0.0, val_fraction=0.0,
        steps=10, lr=1e-3,
    )  # fmt: skip
    recorder = Recorder()
    run(config, recorder)

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    ours = load_seq2seq(folder)
    batches = Batches(prepare(bounded(config, ours), ours), batch_size=config.batch_size, seed=config.seed)
    model, tokenizer = (of.from_pretrained(folder) for of in (AutoModelForSeq2SeqLM, AutoTokenizer))
    for name in ("dropout", "dropout_rate", "attention_dropout", "activation_dropout"):
        for module in model.modules():
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(config.beta1, config.beta2), weight_decay=0.0)
    expected = []
    for step in range(config.steps or 0):
        chosen = [words[number] for number in batches.numbers(step)]
        rows = tokenizer(chosen, padding=True, return_tensors="pt")
        rows.pop("token_type_ids", None)
        labels = tokenizer(text_target=[word[::-1] for word in chosen], padding=True, return_tensors="pt")["input_ids"]
        loss = model(**rows, labels=labels.masked_fill(labels == tokenizer.pad_token_id, -100)).loss
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        expected.append(loss.item())
    assert recorder.losses == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "precision"),
    [
        ({}, "fp32"),
        ({"accumulate": 2, "label_smoothing": 0.1}, "fp32"),
        ({"optimizer": "adafactor", "lr": 1e-2}, "fp32"),
        ({}, "bf16"),
    ],
)
def test_an_interrupted_run_ends_bit_for_bit_like_a_straight_one(
    config: TextTrainConfig, tmp_path: Path, change: dict[str, Any], precision: str
) -> None:
    config = config.replace(**change)
    run(config, precision=precision)
    straight = digests(tmp_path / "run")
    again = config.replace(out=str(tmp_path / "again"))

    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    for attempt, at in enumerate((3, 7)):  # before the first save but that at the start, and between two
        with pytest.raises(Killed):
            run(again, Recorder(at, die), precision=precision, resume=attempt > 0)
    resumed = Recorder()
    run(again, resumed, precision=precision, resume=True)
    assert resumed.steps == list(range(6, 13))
    assert digests(tmp_path / "again") == straight


def test_a_run_is_a_whole_model(config: TextTrainConfig, tmp_path: Path) -> None:
    report = run(config.replace(sample_prompt="abc"))
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {
        "best", "checkpoints", "config.json", "curves.png", "generation_config.json", "genkit.json",
        "metrics.jsonl", "model.safetensors", "samples", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    record = json.loads((folder / "genkit.json").read_text())
    assert record["kind"] == "text"
    assert record["trained"]["steps"] == 12
    assert record["trained"]["tokens"] == report.seen
    assert record["data"]["pairs"] == 200
    assert record["config"]["schedule"] == "linear"
    assert record["config"]["dropout"] is None
    assert record["base"]["model"] == config.init_from
    assert record["metrics"]["val_ppl"] == pytest.approx(math.exp(record["metrics"]["val_loss"]))
    sample = (folder / "samples" / "step-000012.txt").read_text()
    assert sample.startswith("abc\n-> ")
    assert "\n---\n" in sample


def test_accumulation_does_not_change_the_gradient(config: TextTrainConfig, tmp_path: Path) -> None:
    config = config.replace(dropout=0.0, steps=3)
    whole, parts = Recorder(), Recorder()
    run(config, whole)
    run(config.replace(accumulate=4, out=str(tmp_path / "other")), parts)
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)


def test_the_best_is_kept(config: TextTrainConfig, tmp_path: Path) -> None:
    recorder = Recorder()
    config = config.replace(
        steps=40, batch_size=50, lr=5e-2, eval_interval=2, schedule="constant", patience=3, eval_tokens=10_000
    )
    report = run(config, recorder)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
    assert report.metrics["val_loss"] == min(measured.values())
    assert report.steps == max(measured)
    assert any(text.startswith("no better validation in 3") for text in recorder.said)


def test_ctrl_c_saves(config: TextTrainConfig, tmp_path: Path) -> None:
    recorder = Recorder(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="--resume --out"):
        run(config, recorder)
    assert (tmp_path / "run" / "checkpoints" / "step-000003" / "state.json").is_file()


def test_a_loss_that_is_not_finite_goes_back(config: TextTrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = supervised.train_step, [True]

    def once_broken(*args: Any, **how: Any) -> tuple[float, float, int]:
        loss, norm, parts = real(*args, **how)
        return (math.nan, norm, parts) if how["step"] == 7 and broken else (loss, norm, parts)

    monkeypatch.setattr(supervised, "train_step", once_broken)
    recorder = Recorder()
    report = run(config, recorder)
    assert report.steps == 12
    assert any("back to step 5" in text for text in recorder.said)

    monkeypatch.setattr(supervised, "train_step", lambda *args, **how: (math.nan, 1.0, 1))
    with pytest.raises(TrainingStopped, match="the last checkpoint is kept"):
        run(config, force=True)


def test_other_data_is_refused_when_resumed(config: TextTrainConfig, pairs_file: Path) -> None:
    run(config.replace(steps=2))
    pairs_file.write_text('{"source": "a", "target": "b"}\n{"source": "c", "target": "d"}\n')
    with pytest.raises(InputError, match="the data is not what it was"):
        run(config, resume=True)


def test_another_setting_is_refused_when_resumed(config: TextTrainConfig) -> None:
    run(config.replace(steps=2))
    with pytest.raises(UsageError, match="--max-source-tokens was 512 when this run began, not 20"):
        run(config.replace(max_source_tokens=20), resume=True)


def test_bad_data_is_named_and_nothing_is_left(config: TextTrainConfig, pairs_file: Path, tmp_path: Path) -> None:
    with pairs_file.open("a") as file:
        file.write('{"source": "alone"}\n')
    with pytest.raises(InputError, match=r"pairs.jsonl:201 is no pair: it has source"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_plan_writes_nothing(config: TextTrainConfig, tmp_path: Path) -> None:
    with Runtime(resolve("cpu", "fp32", task="train-text"), seed=0) as runtime:
        found = plan(config, runtime)
    assert not (tmp_path / "run").exists()
    assert found["steps"] == 12
    assert found["training_pairs"] + found["validation_pairs"] == 200
    assert found["epochs"] == round(12 * 8 / found["training_pairs"], 2)
    assert found["config"]["optimizer"] == "adamw"

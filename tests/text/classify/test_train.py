"""The classifier's training loop on a tiny GPT."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from genkit.errors import InputError, Interrupted, UsageError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.data import Rows, prepare
from genkit.text.classify.plan import plan
from genkit.text.classify.predict import load_classifier
from genkit.text.classify.start import budget_of, settle, starting_point
from genkit.text.classify.train import train_classifier
from genkit.training.log import Progress, TrainReport
from genkit.training.schedule import lr_scale

ANIMALS = {"cat": "The cat sat on the {}.", "dog": "The dog ran to the {}."}
PLACES = ("mat", "tree", "bird", "song", "stone", "sea", "sand", "oak", "barn", "den", "hat", "tent")


class Recorder:
    """A logger that can pull a trigger at a step."""

    def __init__(self, at: int | None = None, action: Any = None) -> None:
        self.at, self.action = at, action
        self.losses: list[float] = []
        self.said: list[str] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        self.losses.append(progress.values["loss"])
        if progress.step == self.at:
            self.action()

    def message(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        pass


@pytest.fixture
def config(tmp_path: Path, tiny_text: Path) -> ClassifyTrainConfig:
    rows = [{"text": line.format(place), "label": name} for place in PLACES for name, line in ANIMALS.items()]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ClassifyTrainConfig(
        data=(str(tmp_path / "a.jsonl"),), init_from=str(tiny_text), out=str(tmp_path / "run"), steps=12,
        batch_size=4, lr=3e-3, head_lr=1e-2, eval_interval=5, save_interval=5, val_fraction=0.25,
    )  # fmt: skip


def run(
    config: ClassifyTrainConfig, logger: Recorder | None = None, precision: str = "fp32", **how: bool
) -> TrainReport:
    with Runtime(resolve("cpu", precision, task="train-classifier"), seed=config.seed) as runtime:
        return train_classifier(config, runtime, logger or Recorder(), **how)


def digests(folder: Path) -> dict[str, str]:
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in newest.glob("*.safetensors")} | {
        "published": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    }


def test_it_learns_and_leaves_a_classifier(config: ClassifyTrainConfig, tmp_path: Path) -> None:
    recorder = Recorder()
    report = run(config.replace(steps=60), recorder)
    assert recorder.losses[0] == pytest.approx(0.693, abs=0.1)  # two classes, a head that knows nothing
    assert report.metrics["val_accuracy"] == 1
    assert report.metrics["val_majority"] == 0.5
    assert (report.seen, report.unit) == (60 * 4, "examples")
    assert "accuracy 1.0000" in report.verdict[0]
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {
        "best", "checkpoints", "config.json", "curves.png", "genkit.json", "metrics.jsonl", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    record = json.loads((folder / "genkit.json").read_text())
    assert record["kind"] == "classifier"
    assert record["data"]["classes"] == {"cat": 9, "dog": 9}
    assert record["base"]["model"] == config.init_from
    assert load_classifier(folder).classes == ("cat", "dog")


def test_the_loss_curve_is_that_of_a_plain_loop(config: ClassifyTrainConfig) -> None:
    """PyTorch written out: cross-entropy, AdamW in three groups, a linear schedule, gradients clipped at 1."""
    recorder = Recorder()
    run(config, recorder)
    data = prepare(config)
    model = starting_point(config, data.classes).model.train()
    rows = Rows(model, data.train, config.seed)
    head = model.head()
    others = [p for name, p in model.named_parameters() if not name.startswith("score")]
    tables = [p for name, p in model.named_parameters() if name == "gpt.embed.weight"]
    matrices = [p for p in others if p.ndim > 1 and all(p is not table for table in tables)]
    rest = [p for p in others if all(p is not matrix for matrix in matrices)]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.01, "peak": 3e-3},
            {"params": rest, "weight_decay": 0, "peak": 3e-3},
            {"params": head, "weight_decay": 0.01, "peak": 1e-2},
        ],
        betas=(0.9, 0.999),
    )
    expected = []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * lr_scale("wsd", step / 12, warmup=0.1, cooldown=0.9)
        x, y = rows.batch(step, 4)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        expected.append(loss.item())
    assert recorder.losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "precision"), [({}, "fp32"), ({"balance": True, "val_fraction": 0.0}, "fp32"), ({}, "bf16")]
)
def test_an_interrupted_run_ends_bit_for_bit_like_a_straight_one(
    config: ClassifyTrainConfig, tmp_path: Path, change: dict[str, Any], precision: str
) -> None:
    config = config.replace(**change)
    run(config, precision=precision)
    again = config.replace(out=str(tmp_path / "again"))

    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        run(again, Recorder(8, die), precision=precision)
    run(again, precision=precision, resume=True)
    assert digests(tmp_path / "again") == digests(tmp_path / "run")


def test_a_signal_saves_and_says_how_to_go_on(config: ClassifyTrainConfig, tmp_path: Path) -> None:
    import signal

    with pytest.raises(Interrupted) as error:
        run(config, Recorder(3, lambda: signal.raise_signal(signal.SIGINT)))
    assert "at step 3" in error.value.message
    assert f"genkit train-classifier --resume --out {config.out}" in (error.value.hint or "")
    assert run(config, resume=True).steps == 12


def test_resuming_keeps_data_and_settings(config: ClassifyTrainConfig, tmp_path: Path) -> None:
    run(config)
    with pytest.raises(UsageError, match=r"--lr was 0\.003 when this run began"):
        run(config.replace(lr=1e-4), resume=True)
    assert run(config.replace(steps=14), resume=True).steps == 14
    path = Path(config.data[0])
    path.write_text(path.read_text().replace("mat", "rug"))
    with pytest.raises(InputError, match="not what it was"):
        run(config.replace(steps=15), resume=True)


def test_the_best_model_is_kept_and_patience_ends_the_run(config: ClassifyTrainConfig, tmp_path: Path) -> None:
    recorder = Recorder()
    config = config.replace(steps=None, epochs=500.0, lr=0.5, head_lr=0.5, eval_interval=2, patience=3)
    report = run(config, recorder)  # at such a rate it only gets worse
    assert report.steps < 100
    assert any("no better validation in 3" in line for line in recorder.said)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "val_macro_f1" in row]
    best = max(measured, key=lambda row: (row["val_macro_f1"], -row["val_loss"]))
    assert report.metrics["val_loss"] == best["val_loss"]
    published = (tmp_path / "run/model.safetensors").read_bytes()
    assert published == (tmp_path / "run/best/model.safetensors").read_bytes()


def test_every_epoch_shows_each_example_once(config: ClassifyTrainConfig) -> None:
    data = prepare(config)
    rows = Rows(starting_point(config, data.classes).model, data.train, seed=3)
    taken = [tuple(row[0].tolist()) for step in range(9) for row in rows.batch(step, 4)[0].unbind()]
    padded = [tuple(t for t in row if t) for row in taken]
    assert sorted(padded[:18]) == sorted(padded[18:])  # 18 examples, two epochs
    assert padded[:18] != padded[18:]
    assert len(set(padded)) == 18
    assert torch.equal(rows.batch(2, 4)[0], rows.batch(2, 4)[0])


def test_balanced_classes_weigh_the_same(config: ClassifyTrainConfig) -> None:
    data = prepare(config.replace(val_fraction=0.0))
    few = [example for example in data.train if example.label == "cat"] + [
        example for example in data.train if example.label == "dog"
    ][:4]
    rows = Rows(starting_point(config, data.classes).model, few, seed=0)
    assert rows.weights().tolist() == pytest.approx([16 / (2 * 12), 16 / (2 * 4)])


def test_settings_that_are_left_open(config: ClassifyTrainConfig) -> None:
    model = starting_point(config, ("cat", "dog")).model
    found = settle(ClassifyTrainConfig(), model)
    assert (found.lr, found.head_lr, found.epochs, found.max_length) == (3e-4, 1e-3, 3.0, 64)
    model.width = 768
    assert settle(ClassifyTrainConfig(budget=60.0), model).lr == pytest.approx(3e-5)
    assert settle(ClassifyTrainConfig(budget=60.0), model).epochs is None
    assert budget_of(ClassifyTrainConfig(epochs=2.5), 10).units == 25
    with pytest.raises(UsageError, match="--steps and --epochs both say"):
        budget_of(ClassifyTrainConfig(steps=3, epochs=1.0), 10)
    with pytest.raises(UsageError, match="--max-length 65 is more than the model's context"):
        starting_point(config.replace(max_length=65), ("cat", "dog"))


def test_a_plan_writes_nothing(config: ClassifyTrainConfig, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with Runtime(resolve("cpu", "fp32", task="train-classifier")) as runtime:
        found = plan(config, runtime)
    assert (found["steps"], found["training_examples"], found["validation_examples"]) == (12, 18, 6)
    assert sorted(tmp_path.rglob("*")) == before

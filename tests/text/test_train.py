"""The text training loop on tiny models."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from genkit.errors import InputError, Interrupted, TrainingStopped, UsageError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text import train
from genkit.text.models.store import load_model
from genkit.text.plan import plan
from genkit.text.train import train_text
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.log import Progress, TrainReport

LINES = "the cat sat on the mat and the dog ran to the cat\n" * 60


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
def config(tmp_path: Path) -> TextTrainConfig:
    (tmp_path / "book.txt").write_text(LINES)
    return TextTrainConfig(
        data=(str(tmp_path / "book.txt"),), out=str(tmp_path / "run"), tokenizer="char", steps=12, n_layer=1,
        n_embd=32, n_head=2, block_size=16, batch_size=4, dropout=0.1, lr=1e-2, eval_tokens=64, save_interval=5,
        eval_interval=6, sample_interval=6,
    )  # fmt: skip


def run(
    config: TextTrainConfig, logger: Recorder | None = None, *, precision: str = "fp32", **how: bool
) -> TrainReport:
    with Runtime(resolve("cpu", precision, task="train-text"), seed=config.seed) as runtime:
        return train_text(config, runtime, logger or Recorder(), **how)


def digests(folder: Path) -> dict[str, str]:
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = [*newest.glob("*.safetensors"), folder / "model.safetensors"]
    return {
        path.name if path.parent == newest else "published": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_it_learns_and_leaves_a_whole_model(config: TextTrainConfig, tmp_path: Path) -> None:
    recorder = Recorder()
    report = run(config.replace(steps=90, eval_interval=90, sample_interval=90, dropout=0.0), recorder)
    assert recorder.steps == list(range(1, 91))
    assert recorder.losses[0] == pytest.approx(math.log(18), abs=0.3)  # 17 characters, end of text, unknown
    assert report.metrics["val_loss"] < 0.5  # the line repeats: there is little left to guess
    assert report.seen == 90 * 4 * 16
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {
        "best", "checkpoints", "config.json", "curves.png", "data", "generation_config.json", "genkit.json",
        "metrics.jsonl", "model.safetensors", "samples", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    record = json.loads((folder / "genkit.json").read_text())
    assert record["trained"]["tokens"] == report.seen
    assert record["config"]["lr"] == config.lr
    assert record["metrics"]["val_bpb"] == pytest.approx(report.metrics["val_loss"] / math.log(2), rel=0.1)
    assert isinstance(load_model(folder), torch.nn.Module)


@pytest.mark.parametrize(
    ("change", "precision"),
    [
        ({}, "fp32"),
        ({"accumulate": 2}, "fp32"),
        ({"optimizer": "muon"}, "fp32"),
        ({"optimizer": "muon"}, "bf16"),
        ({"arch": "gpt2", "schedule": "cosine"}, "fp32"),
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

    for attempt, at in enumerate((3, 7, 11)):  # after, between and after saves at 5 and 10
        with pytest.raises(Killed):
            run(again, Recorder(at, die), precision=precision, resume=attempt > 0)
    resumed = Recorder()
    run(again, resumed, precision=precision, resume=True)
    assert resumed.steps == [11, 12]
    assert digests(tmp_path / "again") == straight
    logged = [json.loads(line) for line in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == [10]


def test_accumulation_does_not_change_the_gradient(config: TextTrainConfig, tmp_path: Path) -> None:
    config = config.replace(dropout=0.0, steps=3)
    whole, parts = Recorder(), Recorder()
    run(config, whole)
    run(config.replace(accumulate=4, out=str(tmp_path / "other")), parts)
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)


def test_a_signal_saves_and_names_the_command_that_resumes(config: TextTrainConfig, tmp_path: Path) -> None:
    import os
    import signal

    recorder = Recorder(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match=r"genkit train-text --resume --out"):
        run(config, recorder)
    assert recorder.steps[-1] == 5  # ranks agree on it once a step
    assert (tmp_path / "run" / "checkpoints" / "step-000005" / "state.json").is_file()


class Poisoned:
    """A `train_step` whose loss is nan whenever a batch of `bad` data steps comes."""

    def __init__(self, *bad: int) -> None:
        self.bad, self.taken, self.scales = bad, [], []
        self.original = train.train_step

    def __call__(self, model: Any, loss: Any, optimizers: Any, *args: Any, step: int, **how: Any) -> Any:
        self.taken.append(step)
        self.scales.append(next(iter(optimizers.values())).param_groups[0]["lr"])
        found, norm, parts = self.original(model, loss, optimizers, *args, step=step, **how)
        if step in self.bad:
            with torch.no_grad():
                model.embed.weight.fill_(math.nan)
            found = math.nan
        return found, norm, parts


def test_a_loss_that_is_not_finite_sends_the_run_back_past_the_data_at_a_lower_rate(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = Poisoned(7)
    monkeypatch.setattr(train, "train_step", poisoned)
    recorder = Recorder()
    report = run(config.replace(schedule="constant", warmup=0.0), recorder)
    assert poisoned.taken == [*range(8), *range(8, 15)]  # a save at step 5: steps 5 to 11 again, on other data
    assert poisoned.scales == pytest.approx([1e-2] * 8 + [0.5e-2] * 7)
    assert recorder.steps == [1, 2, 3, 4, 5, 6, 7, *range(6, 13)]
    assert any("the loss is nan" in line and "back to step 5" in line for line in recorder.said)
    assert report.steps == 12
    assert all(torch.isfinite(p).all() for p in load_model(tmp_path / "run").parameters())


def test_a_run_that_went_back_resumes_bit_for_bit(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train_step", Poisoned(7))
    run(config)
    straight = digests(tmp_path / "run")

    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    again = config.replace(out=str(tmp_path / "again"))
    with pytest.raises(Killed):
        run(again, Recorder(8, die))  # after going back from 7 to 5
    run(again, resume=True)
    assert digests(tmp_path / "again") == straight


def test_a_loss_that_never_is_finite_ends_the_run_and_keeps_the_last_checkpoint(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train_step", Poisoned(*range(7, 99)))
    with pytest.raises(TrainingStopped, match=r"the loss is nan .* after going back 3 times") as error:
        run(config)
    assert error.value.exit_code == 6
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-000000", "step-000005"]
    assert all(torch.isfinite(p).all() for p in load_model(tmp_path / "run").parameters())


def fake_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    told = iter(losses)

    def evaluate(*args: Any, **how: Any) -> dict[str, float]:
        loss = next(told)
        return {"val_loss": loss, "val_ppl": math.exp(loss), "val_bpb": loss / math.log(2)}

    monkeypatch.setattr(train, "evaluate", evaluate)


def test_the_model_that_validates_best_is_kept(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_losses(monkeypatch, 3.0, 1.0, 2.0)
    recorder = Recorder()
    report = run(config.replace(eval_interval=4), recorder)  # validates at 4, 8 and at the end
    folder = tmp_path / "run"
    assert (folder / "model.safetensors").read_bytes() == (folder / "best" / "model.safetensors").read_bytes()
    for record in (folder / "genkit.json", folder / "best" / "genkit.json"):
        told = json.loads(record.read_text())
        assert (told["trained"]["steps"], told["metrics"]["val_loss"]) == (8, 1.0)
    assert report.metrics["val_loss"] == 1.0
    assert any("step 8 validated best" in line for line in recorder.said)
    short = config.replace(steps=8, eval_interval=99, out=str(tmp_path / "short"))
    assert load_model(folder / "best").config == load_model(folder).config
    fake_losses(monkeypatch, 1.0)
    run(short.replace(schedule="constant", warmup=0.0))
    assert (tmp_path / "short" / "best" / "tokenizer.json").is_file()


def test_the_model_kept_is_the_one_in_best_also_when_the_run_went_back(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_losses(monkeypatch, 2.0, 1.0, 3.0, 3.0, 3.0, 3.0)
    monkeypatch.setattr(train, "train_step", Poisoned(7))
    recorder = Recorder()
    report = run(config.replace(eval_interval=3), recorder)  # best at 6, back from 8 to 5, where 3 was best
    record = json.loads((tmp_path / "run" / "genkit.json").read_text())
    assert (record["trained"]["steps"], record["metrics"]["val_loss"], report.metrics["val_loss"]) == (6, 1.0, 1.0)
    assert any("step 6 validated best, with 1.0000" in line for line in recorder.said)


def test_a_validation_loss_that_is_not_finite_is_never_the_best(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_losses(monkeypatch, math.nan, 2.0, math.nan)
    assert run(config.replace(eval_interval=4)).metrics["val_loss"] == 2.0
    assert json.loads((tmp_path / "run" / "genkit.json").read_text())["trained"]["steps"] == 8


def test_patience_ends_a_run_that_no_longer_gets_better(
    config: TextTrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_losses(monkeypatch, 3.0, 2.0, 2.5, 2.25)  # no fifth: the last one is not measured again at the end
    report = run(config.replace(steps=20, eval_interval=2, patience=2))
    assert report.steps == 8  # best at 4, then two that are not better
    assert report.metrics["val_loss"] == 2.0


def test_patience_where_the_data_leaves_nothing_to_validate_on_is_refused(
    config: TextTrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "talk.jsonl").write_text(json.dumps({"prompt": "the cat sat on the mat", "completion": "so?"}))
    with pytest.raises(UsageError, match="--patience needs text to validate on"):  # one conversation is not divided
        run(config.replace(data=(str(tmp_path / "talk.jsonl"),), patience=3))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_memory_does_not_hold_is_split(
    config: TextTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(dropout=0.0, steps=3)
    whole, split = Recorder(), Recorder()
    run(config, whole)
    from genkit.text.models.gpt import GPT

    original = GPT.loss

    def small(self: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.training and len(ids) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, ids, targets)

    monkeypatch.setattr(GPT, "loss", small)
    run(config.replace(out=str(tmp_path / "split")), split)
    assert split.losses == pytest.approx(whole.losses, abs=1e-5)
    assert [line for line in split.said if "out of memory" in line] == [
        "out of memory: each batch goes through in 4 parts from here on"
    ]
    again = Recorder()
    run(config.replace(steps=4, out=str(tmp_path / "split")), again, resume=True)
    assert not [line for line in again.said if "out of memory" in line]  # it is remembered


def test_fine_tuning_starts_from_the_given_weights(config: TextTrainConfig, tmp_path: Path) -> None:
    before = run(config.replace(steps=40, eval_interval=40, sample_interval=40, dropout=0.0)).metrics["val_loss"]
    tuned = Recorder()
    tuning = TextTrainConfig(data=config.data, init_from=config.out, out=str(tmp_path / "tuned"), steps=1, batch_size=4)
    run(tuning, tuned)
    assert tuned.losses[0] == pytest.approx(before, abs=0.3)


def test_a_resumed_run_keeps_its_settings_and_its_data(config: TextTrainConfig, tmp_path: Path) -> None:
    run(config)
    with pytest.raises(UsageError, match=r"--lr was 0\.01"):
        run(config.replace(lr=0.02, steps=14), resume=True)
    (tmp_path / "book.txt").write_text(LINES + "one more line\n")
    with pytest.raises(InputError, match="is not what"):
        run(config.replace(steps=14), resume=True)


def test_a_run_that_cannot_begin_leaves_nothing(config: TextTrainConfig, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("short")
    with pytest.raises(InputError):
        run(config)
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_and_writes_nothing(config: TextTrainConfig, tmp_path: Path) -> None:
    with Runtime(resolve("cpu", "fp32", task="train-text")) as runtime:
        found = plan(config.replace(steps=50), runtime)
    assert found["steps"] == 50
    assert found["tokens_per_step"] == 64
    assert found["training_tokens"] + found["validation_tokens"] == pytest.approx(len(LINES), abs=2)
    assert found["tokens_per_second"] > 0
    assert not (tmp_path / "run").exists()


def test_a_finished_run_can_be_resumed_and_lengthened(config: TextTrainConfig, tmp_path: Path) -> None:
    run(config.replace(steps=4))
    before = digests(tmp_path / "run")
    assert run(config.replace(steps=4), resume=True).steps == 4
    assert digests(tmp_path / "run") == before
    assert run(config.replace(steps=6), resume=True).steps == 6


def test_a_budget_too_short_for_a_step_still_trains_one(config: TextTrainConfig) -> None:
    report = run(config.replace(steps=None, budget=0.001))
    assert report.steps == 1
    assert math.isfinite(report.metrics["loss"])


def test_the_model_of_init_from_brings_its_shape(config: TextTrainConfig, tmp_path: Path) -> None:
    run(config)
    plain = TextTrainConfig(data=config.data, init_from=config.out, out=str(tmp_path / "tuned"), steps=2, batch_size=4)
    with pytest.raises(UsageError, match="--arch does not go with --init-from"):
        run(plain.replace(arch="gpt2"))
    with pytest.raises(UsageError, match="--block-size 99 is more than the model's context"):
        run(plain.replace(block_size=99))
    run(plain)
    shutil.rmtree(tmp_path / "run")  # a tuned run is whole in itself
    assert run(plain.replace(steps=3), resume=True).steps == 3


def test_a_run_resumes_in_the_precision_it_began_in(config: TextTrainConfig) -> None:
    run(config)
    with pytest.raises(UsageError, match="add --precision fp32"):
        run(config.replace(steps=14), precision="bf16", resume=True)


def test_data_that_is_gone_and_different_is_not_taken_for_the_old(config: TextTrainConfig, tmp_path: Path) -> None:
    run(config)
    shutil.rmtree(tmp_path / "run" / "data")
    (tmp_path / "book.txt").write_text(LINES.replace("cat", "cow"))
    with pytest.raises(InputError, match=r"book\.txt"):
        run(config.replace(steps=14), resume=True)


def test_a_sample_prompt_that_fills_the_context_is_refused_first(config: TextTrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--sample-prompt has 16 tokens"):
        run(config.replace(sample_prompt="the cat sat on t"))
    assert not (tmp_path / "run").exists()

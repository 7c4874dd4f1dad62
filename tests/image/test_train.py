"""The GAN loop: resuming changes nothing, and failures leave the last good state."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import genkit.image.game as game
import genkit.image.judge as judge
import genkit.image.train as train
from genkit.errors import InputError, Terminated, TrainingStopped, UsageError
from genkit.files import read_json, write_json
from genkit.image import graph
from genkit.image.canvas import grid
from genkit.image.config import GANTrainConfig
from genkit.image.data import prepare
from genkit.image.engines import ImageRequest
from genkit.image.engines.onnx import OnnxImageEngine
from genkit.image.engines.torch import TorchImageEngine
from genkit.image.modelconfig import DCGANConfig, read_model_config
from genkit.image.models.dcgan import Discriminator, Generator
from genkit.image.models.store import load_generator
from genkit.image.noise import batch_latents, latents
from genkit.image.plan import plan
from genkit.image.train import train_gan
from genkit.runtime.device import Hardware, resolve
from genkit.runtime.manager import Runtime
from genkit.tensors import TensorFile
from genkit.training.log import Progress
from genkit.training.weights import load_tensors


@pytest.fixture(autouse=True)
def by_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features take seconds; what the loop does with a number does not depend on them."""
    monkeypatch.setattr(judge, "available", lambda: False)


class Recorder:
    """A logger that keeps what it hears, and may interfere at a step."""

    def __init__(self, at: int | None = None, do: object = None) -> None:
        self.at, self.do = at, do
        self.steps: list[int] = []
        self.messages: list[str] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        if progress.step == self.at:
            self.do()  # type: ignore[operator]

    def message(self, text: str) -> None:
        self.messages.append(text)

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Thirty 32-pixel images: discs of one hue on white."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    y, x = np.mgrid[:32, :32]
    rng = np.random.default_rng(0)
    for i in range(30):
        cx, cy = rng.integers(12, 20, 2)
        pixels = np.full((32, 32, 3), 255, np.uint8)
        pixels[(x - cx) ** 2 + (y - cy) ** 2 < 64] = (200, 40, 10 * (i % 3))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def settings(pictures: Path, out: Path, **changes: object) -> GANTrainConfig:
    tiny = {"arch": "dcgan", "size": 32, "ngf": 4, "ndf": 4, "nz": 8, "batch_size": 8, "steps": 12, "flip": False}
    tiny |= {"eval_images": 16, "eval_interval": 1000}
    return GANTrainConfig(data=str(pictures), out=str(out), **(tiny | changes))  # type: ignore[arg-type]


def run(config: GANTrainConfig, logger: Recorder | None = None, precision: str = "fp32", **how: bool) -> Recorder:
    logger = logger or Recorder()
    placement = resolve("cpu", precision, task="train-gan", hardware=Hardware())
    with Runtime(placement, config.seed) as runtime:
        train_gan(config, runtime, logger, **how)
    return logger


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def checkpoint_hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every tensor file in the newest checkpoint, and of the published model."""
    newest = max((out / "checkpoints").glob("step-*"))
    files = [*newest.glob("*.safetensors"), out / "model.safetensors"]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


STABLE = {"d_norm": "spectral", "loss": "hinge"}
R1 = {"d_norm": "none", "regularizer": "r1", "reg_interval": 2, "flip": True, "schedule": "linear"}


PLUS = {"arch": "plus", "augment": "auto", "reg_interval": 2, "ema_images": 20}


@pytest.mark.parametrize("changes", [{}, STABLE, R1, PLUS], ids=["reference", "spectral", "r1", "plus"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_equals_straight(
    pictures: Path, tmp_path: Path, changes: dict[str, object], precision: str
) -> None:
    """Stopped twice, once in the middle of an epoch of 30 images in batches of 8."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(settings(pictures, straight, **changes), precision=precision)
    config = settings(pictures, broken, **changes)
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    for at, resume in ((3, False), (7, True)):
        with pytest.raises(Terminated, match=f"step {at + 1}") as caught:
            run(config, Recorder(at, stop), precision, resume=resume)
        assert "genkit train-gan --resume" in str(caught.value.hint)
    run(config, precision=precision, resume=True)
    assert checkpoint_hashes(straight) == checkpoint_hashes(broken)
    steps = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (straight / "metrics.jsonl").read_text().splitlines()]


def test_default_flags_are_the_example(pictures: Path, tmp_path: Path) -> None:
    """Three steps of pytorch/examples/dcgan written out: separate passes of D over real and
    fake, summed losses, G judged on the same fakes by the D just updated."""
    out = tmp_path / "run"
    run(settings(pictures, out, steps=3))
    torch.manual_seed(0)
    shape = DCGANConfig(size=32, ngf=4, ndf=4, nz=8)
    g, d = Generator(shape), Discriminator(shape)
    criterion = torch.nn.BCELoss()
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), lr=0.0002, betas=(0.5, 0.999)) for net in (g, d))
    store = prepare(settings(pictures, out), tmp_path / "store")
    for step in range(3):
        pixels = torch.from_numpy(store.batch(batch_size=8, seed=0, step=step, flip=False)[0])
        real = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        d.zero_grad()
        criterion(d(real).sigmoid(), torch.ones(8)).backward()
        fake = g(torch.from_numpy(batch_latents(0, step, 8, 8)))
        criterion(d(fake.detach()).sigmoid(), torch.zeros(8)).backward()
        adam_d.step()
        g.zero_grad()
        criterion(d(fake).sigmoid(), torch.ones(8)).backward()
        adam_g.step()
    checkpoint = max((out / "checkpoints").glob("step-*"))
    for name, net in (("generator", g), ("discriminator", d)):
        ours = load_tensors(checkpoint / f"{name}.safetensors")
        for key, theirs in net.state_dict().items():
            # a step is 2e-4; rounding differs where a gradient is all but zero
            torch.testing.assert_close(ours[key], theirs, rtol=0, atol=1e-5, msg=f"{name} {key}")


def test_a_killed_run_goes_on_from_its_last_checkpoint(pictures: Path, tmp_path: Path) -> None:
    """A crash between checkpoints loses steps, not equality."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(settings(pictures, straight, save_interval=5))
    config = settings(pictures, broken, save_interval=5)

    def crash() -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(config, Recorder(8, crash))
    assert run(config, resume=True).steps == list(range(6, 13))
    assert checkpoint_hashes(straight) == checkpoint_hashes(broken)


def test_another_seed_is_another_model(pictures: Path, tmp_path: Path) -> None:
    run(settings(pictures, tmp_path / "a", steps=2))
    run(settings(pictures, tmp_path / "b", steps=2, seed=1))
    run(settings(pictures, tmp_path / "c", steps=2))
    a, b, c = (checkpoint_hashes(tmp_path / name)["model.safetensors"] for name in "abc")
    assert a == c != b


def test_leaves_a_model_and_its_record(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(settings(pictures, out, data_license="CC0", sample_interval=6))
    record = json.loads((out / "genkit.json").read_text())
    assert record["kind"] == "image"
    assert record["trained"]["images"] == 96
    assert record["trained"]["steps"] == 12
    assert record["data"]["images"] == 30
    assert record["data"]["license"] == "CC0"
    assert record["config"]["ngf"] == 4
    judged = {"swd", "swd_floor", "diversity", "distinct", "copies"}
    assert record["metrics"].keys() == {"d_loss", "g_loss", "penalty", "d_real", "d_fake"} | judged
    assert [p.name for p in sorted((out / "samples").iterdir())] == [
        "film.webp",
        "step-000006.png",
        "step-000012.png",
    ]
    assert load_generator(out).config.size == 32


@pytest.mark.parametrize("stop", [None, 6, 9])
def test_pictures_are_smoothed_as_measures_best(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    def measure(self: object, ready: Generator) -> dict[str, float]:
        smoothing = ready.config.smoothing  # type: ignore[attr-defined]
        return {"swd": 1 + abs(smoothing - 5), "diversity": 1.0, "distinct": 1.0, "copies": 0.0}

    monkeypatch.setattr(judge.Judge, "measure", measure)
    config = settings(pictures, tmp_path / "run", **PLUS, eval_interval=3)
    if stop is None:
        run(config)
    else:
        run(config.replace(steps=stop))
        run(config, resume=True)
    assert [row["smoothing"] for row in rows(tmp_path / "run") if "swd" in row][-1] == 5.0
    out = tmp_path / "run"
    assert json.loads((out / "config.json").read_text())["smoothing"] == 5.0
    assert load_generator(out).config == load_generator(out / "best").config
    assert np.abs(by_onnx(out).astype(int) - by_torch(out)).max() <= 1


@pytest.mark.parametrize(("asked", "levels"), [("30", 30.0), ("off", 0.0)])
def test_smoothing_asked_for_is_in_every_picture(pictures: Path, tmp_path: Path, asked: str, levels: float) -> None:
    out = tmp_path / "run"
    config = settings(pictures, out, **PLUS, smoothing=asked)
    run(config)
    assert load_generator(out).config == replace(load_generator(out).config, smoothing=levels)
    assert read_json(out / "genkit.json")["metrics"]["smoothing"] == levels
    drawn = by_torch(out)
    assert np.abs(by_onnx(out).astype(int) - drawn).max() <= 1
    write_json(out / "config.json", read_json(out / "config.json") | {"smoothing": 0})
    steps_between = [np.abs(np.diff(p.astype(int), axis=2)).mean() for p in (drawn, by_torch(out))]
    assert (steps_between[0] < steps_between[1]) == (levels > 0)

    run(config.replace(steps=13, smoothing="auto"), resume=True)  # left open: as it began
    assert load_generator(out).config.smoothing == levels  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=rf"--smoothing was '{asked}' when this run began, not '7'"):
        run(config.replace(steps=14, smoothing="7"), resume=True)


def test_the_last_sample_sheet_shows_what_the_model_draws(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(settings(pictures, out))
    with Runtime(resolve("cpu", task="image", hardware=Hardware())) as runtime:
        events = TorchImageEngine(load_generator(out), runtime).generate(
            ImageRequest(i, latents(i, 8)) for i in range(64)
        )
        drawn = grid([event.pixels for event in events])
    with Image.open(out / "samples" / "step-000012.png") as sheet:
        assert np.abs(np.asarray(sheet).astype(int) - drawn).max() <= 1


def by_onnx(out: Path) -> np.ndarray:
    return np.stack([e.pixels for e in OnnxImageEngine(out).generate(ImageRequest(i, latents(i, 8)) for i in range(4))])


def by_torch(out: Path) -> np.ndarray:
    with Runtime(resolve("cpu", engine="torch", task="image", hardware=Hardware())) as runtime:
        engine = TorchImageEngine(load_generator(out), runtime)
        return np.stack([e.pixels for e in engine.generate(ImageRequest(i, latents(i, 8)) for i in range(4))])


def test_the_graph_is_published_with_the_weights(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a resumed run that began without one, and where a crash leaves new weights under an old graph."""
    out = tmp_path / "run"
    config = settings(pictures, out, steps=2)
    run(config)
    path = out / graph.GRAPH
    whole = path.read_bytes()
    shape = read_model_config(read_json(out / "config.json"))
    assert graph.stored(out, shape, TensorFile(out / "model.safetensors")) == whole
    before = by_onnx(out)
    assert np.abs(before.astype(int) - by_torch(out)).max() <= 1

    path.unlink()
    run(config.replace(steps=3), resume=True)
    assert path.read_bytes() == whole  # the tensors lie where they lay

    with monkeypatch.context() as patched:
        patched.setattr(graph, "write", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run(config.replace(steps=9), resume=True)
    drawn = by_onnx(out)
    assert np.abs(drawn.astype(int) - by_torch(out)).max() <= 1
    assert not np.array_equal(drawn, before)


def breaking_at(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """The generator's loss is NaN at these calls, counted from 1."""
    real = game.LOSSES["bce"]
    count = 0

    def breaks(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return real.generator(real_logits, fake_logits) * (math.nan if count in calls else 1)

    monkeypatch.setitem(game.LOSSES, "bce", real._replace(generator=breaks))


def test_not_finite_goes_back_past_the_data_with_half_the_rate(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    breaking_at(monkeypatch, 8)
    batches: list[int] = []
    real = train.training_batch
    monkeypatch.setattr(train, "training_batch", lambda c, s, step: [batches.append(step), real(c, s, step)][1])
    heard = run(settings(pictures, out, save_interval=3))
    assert [m for m in heard.messages if "back to step 6, with the learning rate times 0.5" in m and "g_loss nan" in m]
    assert heard.steps == [*range(1, 8), *range(7, 13)]
    assert batches == [*range(8), *range(8, 14)]  # after step 6 came data of step 7, that broke; it is passed over
    scales = {r["step"]: r["lr_scale"] for r in rows(out) if "lr_scale" in r}
    assert scales == {10: 0.5}


def test_weights_that_are_not_finite_go_back_before_they_are_saved(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = train.play, iter(range(1, 99))

    def spoils(game: game.Game, *rest: Any) -> Any:
        found = real(game, *rest)
        if next(steps) == 8:
            with torch.no_grad():
                next(game.generator.parameters()).fill_(math.inf)
        return found

    monkeypatch.setattr(train, "play", spoils)
    heard = run(settings(pictures, tmp_path / "run", save_interval=4))
    assert [m for m in heard.messages if "weights nan at step 8: back to step 4" in m]
    assert heard.steps == [*range(1, 8), *range(5, 13)]


def test_not_finite_again_and_again_stops_and_keeps_the_best(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    breaking_at(monkeypatch, *range(8, 99))
    with pytest.raises(TrainingStopped, match=r"g_loss nan.* at step 7, after going back 3 times") as caught:
        run(settings(pictures, out, save_interval=3, eval_interval=4))
    assert "--force" in str(caught.value.hint)
    kept = json.loads((out / "genkit.json").read_text())
    assert kept["trained"]["steps"] == json.loads((out / "best" / "genkit.json").read_text())["trained"]["steps"] <= 6
    assert all(torch.isfinite(p).all() for p in load_generator(out).parameters())


def test_says_when_the_discriminator_has_won_and_when_it_is_over(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = game.LOSSES["bce"]
    monkeypatch.setitem(game.LOSSES, "bce", real._replace(discriminator=lambda r, f: real.discriminator(r, f) * 1e-4))
    out = tmp_path / "run"
    heard = run(settings(pictures, out)).messages
    assert sum("tells every fake from real" in message for message in heard) == 1
    alarms = json.loads((out / "genkit.json").read_text())["alarms"]
    assert alarms[0] == {"alarm": "beaten", "began": 1, "ended": None}


def test_resume_refuses_changed_images(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, tmp_path / "run")
    run(config)
    (pictures / "00.png").unlink()
    with pytest.raises(InputError, match="changed since this run began"):
        run(config.replace(steps=20), resume=True)


def test_resume_refuses_other_settings_but_takes_a_longer_budget(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, tmp_path / "run")
    run(config)
    with pytest.raises(UsageError, match=r"--lr was 0\.0002"):
        run(config.replace(lr=1e-3, steps=20), resume=True)
    assert run(config.replace(steps=14), resume=True).steps == [13, 14]


def test_an_existing_run_is_not_overwritten(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, tmp_path / "run", steps=1)
    run(config)
    with pytest.raises(UsageError, match="already holds a run"):
        run(config)
    run(config, force=True)


def test_r1_refuses_batch_norm() -> None:
    with pytest.raises(UsageError, match="--d-norm batch"):
        GANTrainConfig(arch="dcgan", regularizer="r1")


def test_budgets_exclude_one_another(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--budget and --steps"):
        run(settings(pictures, tmp_path / "run", budget=60.0))


def test_image_budget_counts_real_images(pictures: Path, tmp_path: Path) -> None:
    assert run(settings(pictures, tmp_path / "run", steps=None, images=20)).steps == [1, 2, 3]


def test_fewer_images_than_a_batch_train_with_a_warning(pictures: Path, tmp_path: Path) -> None:
    heard = run(settings(pictures, tmp_path / "run", batch_size=64, steps=1)).messages
    assert any("30 images are fewer than --batch-size 64" in message for message in heard)


def test_plan_trains_nothing_and_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, tmp_path / "run")
    with Runtime(resolve("cpu", task="train-gan", hardware=Hardware())) as runtime:
        found = plan(config, runtime)
    assert found["training_images"] == 30
    assert found["steps"] == 12
    assert found["epochs"] == pytest.approx(3.2)
    assert found["images_per_second"] > 0
    assert not (tmp_path / "run").exists()


def test_overfits_discs(pictures: Path, tmp_path: Path) -> None:
    """After some hundred steps the mean image is near that of the data, as it is not at the start."""
    changes = {"ngf": 8, "ndf": 8, "beta2": 0.99, "lr": 1e-3, "ema_images": 500, **STABLE}
    data = np.stack([np.asarray(Image.open(p)) for p in sorted(pictures.iterdir())]).astype(float)

    def distance(out: Path) -> float:
        with Runtime(resolve("cpu", task="image", hardware=Hardware())) as runtime:
            events = TorchImageEngine(load_generator(out), runtime).generate(
                ImageRequest(i, latents(i, 8)) for i in range(64)
            )
            drawn = np.stack([event.pixels for event in events]).astype(float)
        return float(np.abs(drawn.mean(0) - data.mean(0)).mean())

    run(settings(pictures, tmp_path / "start", steps=1, **changes))
    run(settings(pictures, tmp_path / "end", steps=300, **changes))
    assert distance(tmp_path / "end") < 20 < 60 < distance(tmp_path / "start")


# --- the best is kept, and what is no longer good is undone -----------------------------

FINE = {"swd": 1.0, "diversity": 0.9, "distinct": 0.8, "copies": 0.0}


def judged_as(monkeypatch: pytest.MonkeyPatch, *script: dict[str, float]) -> None:
    """The measurements find these, one after the other; the last one again and again."""
    pending = [*script]
    found = lambda self, ready: FINE | (pending.pop(0) if len(pending) > 1 else pending[0])  # noqa: E731
    monkeypatch.setattr(judge.Judge, "measure", found)


def trained_steps(folder: Path) -> int:
    return int(json.loads((folder / "genkit.json").read_text())["trained"]["steps"])


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_best_model_is_the_one_kept(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_as(monkeypatch, {"swd": 3.0}, {"swd": 1.0}, {"swd": 2.0})
    out = tmp_path / "run"
    heard = run(settings(pictures, out, eval_interval=4))
    assert "step 8 measured best, swd 1.0000: that is the model kept" in heard.messages
    assert trained_steps(out) == trained_steps(out / "best") == 8
    assert weights(out) == weights(out / "best")
    assert np.abs(by_onnx(out).astype(int) - by_torch(out)).max() <= 1
    assert [r["swd"] for r in rows(out) if "swd" in r] == [3.0, 1.0, 2.0]
    assert load_generator(out / "best").config == load_generator(out).config


def test_patience_ends_a_run_that_gets_no_better(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as(monkeypatch, {"swd": 1.0}, {"swd": 1.1})
    heard = run(settings(pictures, tmp_path / "run", steps=60, eval_interval=4, patience=2))
    assert heard.steps[-1] == 12
    assert "no better measurement in 2: stopping here" in heard.messages
    assert trained_steps(tmp_path / "run") == 4


def test_collapse_goes_back_to_the_best_with_half_the_rate(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is older than the two checkpoints that are kept otherwise."""
    judged_as(monkeypatch, {}, {"swd": 1.1}, {"swd": 1.5, "diversity": 0.1}, {"swd": 0.9})
    out = tmp_path / "run"
    published: list[dict[str, float]] = []
    look = Recorder(5, lambda: published.append(json.loads((out / "genkit.json").read_text())["metrics"]))
    heard = run(settings(pictures, out, steps=20, eval_interval=4, save_interval=2), look)
    assert heard.steps == [*range(1, 13), *range(5, 21)]
    assert published[0] == published[1]  # before and after: what is said of the model is of this one
    told = [m for m in heard.messages if "collapse" in m]
    assert told[0].startswith("warning: collapse")
    assert told[0].endswith("(step 12)")
    assert "back to step 4, with the learning rate times 0.5" in told[1]
    record = json.loads((out / "genkit.json").read_text())
    assert record["alarms"] == [{"alarm": "collapse", "began": 12, "ended": 12}]
    assert [r["alarm_collapse"] for r in rows(out) if "swd" in r] == [0, 0, 1, 0, 0, 0, 0]


def test_what_collapses_again_and_again_stops_with_the_best_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as(monkeypatch, {}, {"swd": 1.5, "diversity": 0.1})
    out = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=r"collapse.* after going back 2 times") as caught:
        run(settings(pictures, out, steps=60, eval_interval=4, save_interval=2))
    assert caught.value.exit_code == 6
    assert trained_steps(out) == 4
    assert weights(out) == weights(out / "best")
    alarms = json.loads((out / "genkit.json").read_text())["alarms"]
    assert [entry["began"] for entry in alarms] == [8, 8, 8]


def test_what_collapses_and_is_still_better_is_not_undone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as(monkeypatch, {}, {"swd": 0.9, "diversity": 0.1}, {"swd": 0.8, "diversity": 0.1})
    assert run(settings(pictures, tmp_path / "run", eval_interval=4)).steps == [*range(1, 13)]


def test_resuming_knows_the_best_and_the_alarms(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the best, within a collapse's two measurements, and after going back."""
    script = [{"swd": 1.0}, {"swd": 2.5}, {"swd": 2.6}, {"swd": 1.4}, {"swd": 1.3, "copies": 0.5}]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    changes = {"steps": 20, "eval_interval": 4, "save_interval": 2}
    judged_as(monkeypatch, *script)
    run(settings(pictures, straight, **changes))
    judged_as(monkeypatch, *script)
    config = settings(pictures, broken, **changes)
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    for at, resume in ((5, False), (9, True), (6, True)):
        with pytest.raises(Terminated):
            run(config, Recorder(at, stop), resume=resume)
    run(config, resume=True)
    assert checkpoint_hashes(straight) == checkpoint_hashes(broken)
    records = [json.loads((out / "genkit.json").read_text()) for out in (straight, broken)]
    for record in records:
        record["trained"]["seconds"] = record["config"]["out"] = None
    assert records[0] == records[1]
    assert [entry["alarm"] for entry in records[0]["alarms"]] == ["decline", "copies"]
    bests = [json.loads((out / "best" / "genkit.json").read_text())["trained"]["steps"] for out in (straight, broken)]
    assert bests == [4, 4]


def test_the_report_says_how_good_it_is(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_as(monkeypatch, {"swd": 1.0, "copies": 0.6}, {"swd": 1.5})
    config = settings(pictures, tmp_path / "run", eval_interval=6)
    with Runtime(resolve("cpu", "fp32", task="train-gan", hardware=Hardware()), 0) as runtime:
        report = train_gan(config, runtime, Recorder())
    assert report.metrics["swd"] == 1.0
    assert any(line.startswith("how good it is: sliced Wasserstein distance 1.000") for line in report.verdict)
    assert any("60% of its pictures are near-copies" in line for line in report.verdict)
    assert any("memorisation" in warning and "step 6 to 12" in warning for warning in report.warnings)

import json
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from genkit.errors import UsageError
from genkit.training.log import JsonlLogger, Loggers, TensorBoardLogger


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_log_holds_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = JsonlLogger(path)
    for step in (10, 20, 30):
        log.metrics(step, {"loss": step / 10})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 40, "los')  # cut short by a kill
    log = JsonlLogger(path, after_step=20)
    log.metrics(30, {"loss": 9.0})
    log.close()
    assert lines(path) == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 2.0},
        {"step": 30, "loss": 9.0},
    ]


def test_several_loggers_hear_the_same(tmp_path: Path) -> None:
    both = Loggers(JsonlLogger(tmp_path / "a"), JsonlLogger(tmp_path / "b"))
    both.metrics(1, {"loss": 0.5})
    both.message("not a number, not kept")
    both.close()
    assert lines(tmp_path / "a") == lines(tmp_path / "b") == [{"step": 1, "loss": 0.5}]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path / "a")
    log.metrics(1, {"loss": 0.5, "grad_norm": math.inf, "penalty": math.nan})
    log.close()
    assert lines(tmp_path / "a") == [{"step": 1, "loss": 0.5, "grad_norm": None, "penalty": None}]


def test_tensorboard_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"genkit-cli\[tensorboard\]"):
        TensorBoardLogger(tmp_path)


def test_tensorboard_gets_scalars_settings_and_samples(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    (tmp_path / "genkit.json").write_text(json.dumps({"config": {"lr": 0.25, "steps": None}}))
    samples = tmp_path / "samples"
    samples.mkdir()
    log = TensorBoardLogger(tmp_path)
    (samples / "step-000010.txt").write_text("Once\nupon\n")
    for step in (10, 20, 30):
        log.metrics(step, {"loss": step / 10})
    Image.new("RGB", (4, 3), "red").save(samples / "step-000030.png")
    log.close()  # the end of the run draws after its last metrics

    log = TensorBoardLogger(tmp_path, after_step=20)  # killed, and resumed from step 20
    log.metrics(30, {"loss": 9.0})
    log.close()

    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 1.0), (20, 2.0), (30, 9.0)]
    text = {tag: make_ndarray(e.tensor_proto).item().decode() for tag in events.Tags()["tensors"]
            for e in events.Tensors(tag)}  # fmt: skip
    assert text["samples/text_summary"] == "    Once\n    upon\n"
    assert "| lr | 0.25 |" in text["settings/text_summary"]
    assert "steps" not in text["settings/text_summary"]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (30, 4, 3)

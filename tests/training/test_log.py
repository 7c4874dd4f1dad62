import json
from pathlib import Path

import pytest

from genkit.training.log import JsonlLogger, Loggers


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


def test_tensorboard_writes_events_or_names_the_extra(tmp_path: Path) -> None:
    from genkit.errors import UsageError
    from genkit.training.log import TensorBoardLogger

    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="genkit-cli\\[tensorboard\\]"):
            TensorBoardLogger(tmp_path)
    else:
        log = TensorBoardLogger(tmp_path)
        log.metrics(1, {"loss": 0.5})
        log.close()
        assert list(tmp_path.glob("events*"))

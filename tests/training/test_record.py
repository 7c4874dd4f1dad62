from pathlib import Path

import pytest

from genkit.errors import InputError, UsageError
from genkit.files import write_json
from genkit.runtime.device import resolve
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.record import RECORD, check_resumable, read_record, run_record


def test_a_record_tells_what_was_trained_on_what(tmp_path: Path) -> None:
    placement = resolve("cpu", task="train-text")
    record = run_record(
        kind="text", config={"lr": 0.1}, data={"license": "CC0"}, placement=placement, unit="tokens", seen=5, steps=2,
        seconds=1.26, metrics={"loss": 3.0},
    )  # fmt: skip
    write_json(tmp_path / RECORD, record)
    back = read_record(tmp_path)
    assert back == record
    assert back["trained"] == {"tokens": 5, "steps": 2, "seconds": 1.3}
    assert back["hardware"]["device"] == "cpu"
    with pytest.raises(InputError):
        read_record(tmp_path / "elsewhere")


def test_a_resumed_run_may_change_only_what_is_free(tmp_path: Path) -> None:
    began = TextTrainConfig(data=("a.txt",), lr=0.1, steps=10)
    placement = resolve("cpu", "fp32", task="train-text")
    data = {"fingerprint": "abc"}
    record = run_record(kind="text", config=began.to_dict(), data=data, placement=placement, unit="tokens")
    write_json(tmp_path / RECORD, record)
    assert check_resumable(tmp_path, began.replace(steps=20), {"steps"}, "fp32") == "abc"
    with pytest.raises(UsageError, match=r"--lr was 0\.1 when this run began, not 0\.2"):
        check_resumable(tmp_path, began.replace(lr=0.2), {"steps"}, "fp32")
    with pytest.raises(UsageError, match=r"--data was 'a\.txt' when this run began, not 'b\.txt' and 'c\.txt:2'"):
        check_resumable(tmp_path, began.replace(data=("b.txt", "c.txt:2")), {"steps"}, "fp32")
    with pytest.raises(UsageError, match=r"began in fp32, not bf16 \(add --precision fp32"):
        check_resumable(tmp_path, began, {"steps"}, "bf16")
    write_json(tmp_path / RECORD, {"config": {}})
    with pytest.raises(InputError, match="lacks 'hardware'"):
        check_resumable(tmp_path, began, set(), "fp32")

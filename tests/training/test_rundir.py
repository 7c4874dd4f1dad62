"""Run directories: who may write there, and that no failure loses the last good checkpoint."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from genkit import files
from genkit.errors import InputError, OutputError, RunBusyError, TrainingStopped, UsageError
from genkit.runtime.ranks import Ranks
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState


def state(step: int = 1) -> TrainState:
    """A small state whose every weight is its step."""
    model = nn.Linear(4, 3)
    nn.init.constant_(model.weight, step)
    nn.init.constant_(model.bias, step)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"] = torch.full_like(p, step)
    return TrainState({"model": model}, {"sgd": optimizer}, step=step, extra={"step": step})


def save(run: RunDir, *steps: int, keep: int = 2) -> None:
    for step in steps:
        run.save_checkpoint(state(step), keep=keep)


def checkpoints(path: Path) -> list[str]:
    return sorted(os.listdir(path / "checkpoints"))


def newest(path: Path) -> int:
    """The step of the checkpoint that a resumed run gets, after checking it whole."""
    with RunDir.resume(path) as run:
        checkpoint = run.load_checkpoint()
        again = state(0)
        again.restore(checkpoint)
        values = [again.step, again.extra["step"], *again.modules["model"].weight.flatten().tolist()]
        values += [t.item() for s in again.optimizers["sgd"].state.values() for t in s["momentum_buffer"].flatten()]
        assert set(values) == {checkpoint.step}
        assert checkpoint.skipped == ()
        assert not [n for n in checkpoints(path) if not n.startswith("step-")]
        assert not list(path.glob(files.TEMPORARY))
    return checkpoint.step


# --- opening ---------------------------------------------------------------------------


def test_create_makes_the_folders_above(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "a" / "b") as run:
        assert run.path == tmp_path / "a" / "b"
        assert run.metrics_path == run.path / "metrics.jsonl"
        assert not run.metrics_path.exists()
        assert sorted(os.listdir(run.path)) == [".genkit-run", ".lock"]
        assert run.samples == run.path / "samples"
        assert run.data == run.path / "data"
        assert sorted(os.listdir(run.path)) == [".genkit-run", ".lock", "data", "samples"]


def test_a_run_that_wrote_nothing_may_be_started_again(tmp_path: Path) -> None:
    RunDir.create(tmp_path).close()
    RunDir.create(tmp_path).close()


def test_an_existing_run_is_refused_and_keeps_all(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1)
    with pytest.raises(UsageError) as caught:
        RunDir.create(tmp_path)
    assert caught.value.message == f"{tmp_path} already holds a run (checkpoints)"
    assert caught.value.hint == "--resume continues it, --force starts anew"
    assert newest(tmp_path) == 1


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_foreign_files_is_refused_and_not_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    (tmp_path / "model.safetensors").write_text("mine too")
    with pytest.raises(UsageError, match="is not empty and no run: it holds data"):
        RunDir.create(tmp_path, force=force)
    assert sorted(os.listdir(tmp_path)) == ["data", "model.safetensors"]
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


def test_force_removes_what_genkit_wrote_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    path = tmp_path / "run"
    with RunDir.create(path) as run:
        save(run, 1, 2)
        run.publish(raw={"tokenizer.json": b"{}"}, tensors={"model.safetensors": {}}, json={"config.json": {}})
        run.metrics_path.write_text("{}\n")
        (run.samples / "a.png").touch()
        (run.data / "train.bin").touch()
        (path / "notes.txt").write_text("mine")
        (path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with RunDir.create(path, force=True) as run:
        assert sorted(os.listdir(path)) == [".genkit-aside", ".genkit-run", ".lock", "notes.txt"]
        save(run, 1)
    assert sorted(os.listdir(path)) == [".genkit-run", ".lock", "checkpoints", "notes.txt"]
    assert (tmp_path / "elsewhere" / "kept").exists()
    shutil.rmtree(path / "checkpoints")
    RunDir.create(path).close()  # a note does not make it a run in progress


def test_force_on_a_new_path_is_fine(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "new", force=True) as run:
        save(run, 1)
    assert newest(tmp_path / "new") == 1


# --- starts that fail ------------------------------------------------------------------


def start(path: Path, error: BaseException | None = None, *steps: int, force: bool = False) -> None:
    """A training that saves these steps and ends with this error."""
    with RunDir.create(path, force=force) as run:
        (run.data / "train.bin").write_bytes(b"other tokens")
        run.metrics_path.touch()
        save(run, *steps)
        if error is not None:
            raise error


@pytest.mark.parametrize("made", [True, False])
def test_a_start_that_fails_leaves_a_folder_as_it_was(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "a" / "b"
    if made:
        path.mkdir(parents=True)
    with pytest.raises(InputError):
        start(path, InputError("bad data"))
    assert [p.name for p in tmp_path.rglob("*")] == (["a", "b"] if made else [])


def test_a_killed_start_is_taken_over(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    (run.data / "train.bin").touch()
    (run.path / "checkpoints" / files.temporary_name()).mkdir(parents=True)
    run.metrics_path.touch()
    run.close()  # as a kill does
    with pytest.raises(InputError, match="there is no checkpoint") as caught:
        RunDir.resume(tmp_path)
    assert caught.value.hint == "start it without --resume"
    with RunDir.create(tmp_path) as run:
        assert sorted(os.listdir(tmp_path)) == [".genkit-run", ".lock"]
        save(run, 1)


@pytest.mark.parametrize("name", ["model.safetensors", "samples"])
def test_a_run_whose_checkpoints_were_thrown_away_is_not_taken_over(tmp_path: Path, name: str) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1)
        (tmp_path / name).touch()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UsageError, match=f"already holds a run .{name}.") as caught:
        RunDir.create(tmp_path)
    assert caught.value.hint == "--resume continues it, --force starts anew"
    assert (tmp_path / name).exists()


def finished(path: Path) -> dict[str, bytes]:
    """A run with a model and a foreign file; returns its files."""
    with RunDir.create(path) as run:
        save(run, 1, 2)
        run.publish(tensors={"model.safetensors": {"weight": torch.ones(2)}}, json={"config.json": {"old": 1}})
        (run.data / "train.bin").write_bytes(b"tokens")
        run.metrics_path.write_text("{}\n")
        (path / "notes.txt").write_text("mine")
    return contents(path)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_force_with_bad_data_leaves_the_old_run_as_it_was(tmp_path: Path) -> None:
    before = finished(tmp_path)
    for error in (InputError("bad data"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            start(tmp_path, error, force=True)
        assert contents(tmp_path) == before
    assert newest(tmp_path) == 2


def test_an_error_after_the_first_checkpoint_keeps_the_new_run(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(TrainingStopped):
        start(tmp_path, TrainingStopped("nan"), 7, force=True)
    assert sorted(os.listdir(tmp_path)) == [
        ".genkit-run", ".lock", "checkpoints", "data", "metrics.jsonl", "notes.txt",
    ]  # fmt: skip
    assert newest(tmp_path) == 7


@pytest.mark.parametrize("failing", [True, False])
def test_a_kill_at_every_point_of_a_new_start_leaves_the_old_run_or_a_new_checkpoint(
    tmp_path: Path, failing: bool
) -> None:
    def replace(path: Path) -> None:
        if not failing:
            return start(path, None, 7, force=True)
        with contextlib.suppress(InputError):
            start(path, InputError("bad data"), force=True)

    finished(tmp_path / "counted")
    with pytest.MonkeyPatch.context() as patch:
        power = Power(patch, 1 << 30, None)
        replace(tmp_path / "counted")
    assert len(power.done) >= 20
    found = []
    for at in range(len(power.done)):
        path = tmp_path / str(at)
        before = finished(path)
        with pytest.MonkeyPatch.context() as patch:
            Power(patch, at, None)
            with pytest.raises(Killed):
                replace(path)
        gc.collect()  # the lock of the killed process
        found.append(newest(path))
        if found[-1] == 2:
            assert contents(path) == before
        assert not list(path.glob(".genkit-[am]*"))
        shutil.rmtree(path)
    assert found == sorted(found)
    assert set(found) == ({2} if failing else {2, 7})


def test_a_disk_that_refuses_to_set_a_run_aside(tmp_path: Path) -> None:
    before = finished(tmp_path)
    rename, calls = os.rename, []

    def third_fails(old: Any, new: Any, **more: Any) -> None:
        calls.append(old)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(old, new, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", third_fails)
        with pytest.raises(OutputError, match="Input/output error"):
            RunDir.create(tmp_path, force=True)
    assert contents(tmp_path) == before
    assert newest(tmp_path) == 2


# --- resuming --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "."])
def test_resuming_what_is_no_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not a run directory"):
        RunDir.resume(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_resuming_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    RunDir.create(tmp_path).close()
    for _ in range(2):  # the lock is given back
        with pytest.raises(InputError, match="cannot be resumed: there is no checkpoint"):
            RunDir.resume(tmp_path)
    with RunDir.create(tmp_path) as run, pytest.raises(InputError, match="there is no checkpoint"):
        run.load_checkpoint()


@pytest.mark.parametrize("path", ["/proc/run", "/dev/null", "/dev/null/run"])
def test_where_no_run_can_be_written(path: str) -> None:
    with pytest.raises(OutputError, match=f"cannot write {path}"):
        RunDir.create(path)


def test_the_lock_keeps_others_out_until_the_run_is_closed(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1)
        for open_it in (RunDir.create, RunDir.resume, lambda p: RunDir.create(p, force=True)):
            with pytest.raises(RunBusyError, match="another process is training in"):
                open_it(tmp_path)
        assert checkpoints(tmp_path) == ["step-000001"]
    assert newest(tmp_path) == 1


def test_the_lock_is_given_back_when_creating_fails(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1)
    with pytest.raises(UsageError):
        RunDir.create(tmp_path)
    assert newest(tmp_path) == 1


def test_other_ranks_take_no_lock_and_write_nothing(tmp_path: Path) -> None:
    second = Ranks(rank=1)
    with RunDir.create(tmp_path) as run, RunDir.create(tmp_path, ranks=second) as other:
        save(run, 3)
        before = sorted(p for p in tmp_path.rglob("*"))
        assert other.save_checkpoint(state(4)) == tmp_path / "checkpoints" / "step-000004"
        other.publish(json={"config.json": {}})
        assert sorted(p for p in tmp_path.rglob("*")) == before
        with RunDir.resume(tmp_path, ranks=second) as reader:
            assert reader.load_checkpoint().step == 3


def test_a_rank_that_does_not_see_the_run_says_that_the_disk_must_be_shared(tmp_path: Path) -> None:
    for start in (RunDir.create, RunDir.resume):
        with pytest.raises(InputError, match=r"run is not here .--out must lie on a disk that all machines share"):
            start(tmp_path / "run", ranks=Ranks(rank=1))
    assert not list(tmp_path.iterdir())


# --- saving ----------------------------------------------------------------------------


def test_a_checkpoint_is_its_files_and_their_hashes(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        folder = run.save_checkpoint(state(100))
    assert folder == tmp_path / "checkpoints" / "step-000100"
    names = ["model.safetensors", "optimizer.safetensors", "random.safetensors"]
    assert sorted(os.listdir(folder)) == [*names, "state.json"]
    said = json.loads((folder / "state.json").read_text())
    assert said["files"] == {name: files.sha256(folder / name) for name in names}
    assert said["meta"]["step"] == 100
    umask = os.umask(0o022)
    os.umask(umask)
    assert {stat.S_IMODE((folder / n).stat().st_mode) for n in os.listdir(folder)} == {0o666 & ~umask}


def test_old_checkpoints_go_and_steps_sort_as_numbers(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 999_998, 999_999, 1_000_000)
        assert checkpoints(tmp_path) == ["step-1000000", "step-999999"]
        save(run, 1_000_001, keep=3)
        assert checkpoints(tmp_path) == ["step-1000000", "step-1000001", "step-999999"]
        save(run, 1_000_002, keep=1)
    assert checkpoints(tmp_path) == ["step-1000002"]
    assert newest(tmp_path) == 1_000_002


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1, 2)
        second = state(2)
        second.extra["again"] = True
        run.save_checkpoint(second)
        assert run.load_checkpoint().meta["extra"] == {"step": 2, "again": True}
    assert checkpoints(tmp_path) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, bad: float) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1)
        broken = state(2)
        with torch.no_grad():
            broken.modules["model"].weight[1, 2] = bad
        with pytest.raises(TrainingStopped, match="model: weight is not finite at step 2"):
            run.save_checkpoint(broken)
        with pytest.raises(TrainingStopped, match=r"model\.safetensors: weight is not finite"):
            run.publish(json={"config.json": {}}, tensors={"model.safetensors": broken.modules["model"].state_dict()})
    assert sorted(os.listdir(tmp_path)) == [".genkit-run", ".lock", "checkpoints"]
    assert newest(tmp_path) == 1


def test_publish_writes_what_others_read(tmp_path: Path) -> None:
    tensors = {"half": torch.ones(2).half(), "wide": torch.ones(2).double(), "count": torch.tensor(3)}
    with RunDir.create(tmp_path) as run:
        run.publish(
            raw={"tokenizer.json": b"{}"}, tensors={"model.safetensors": tensors}, json={"config.json": {"a": 1}}
        )
    header = files.check_safetensors(tmp_path / "model.safetensors")
    assert header["__metadata__"] == {"format": "pt"}
    assert {k: header[k]["dtype"] for k in tensors} == {"half": "F32", "wide": "F32", "count": "I64"}
    assert files.read_json(tmp_path / "config.json") == {"a": 1}
    assert (tmp_path / "tokenizer.json").read_bytes() == b"{}"


# --- damage ----------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda f: flip(f / "model.safetensors"), "has changed since it was written"),
    "a flipped bit of the optimizer": (lambda f: flip(f / "optimizer.safetensors"), "has changed since it was written"),
    "a cut file": (lambda f: os.truncate(f / "random.safetensors", 300), "is not safetensors"),
    "an empty file": (lambda f: os.truncate(f / "model.safetensors", 0), "is empty"),
    "a lost file": (lambda f: (f / "model.safetensors").unlink(), "No such file"),
    "a lost state": (lambda f: (f / "state.json").unlink(), "No such file"),
    "a cut state": (lambda f: os.truncate(f / "state.json", 100), "is not JSON"),
    "a changed state": (
        lambda f: (f / "state.json").write_text((f / "state.json").read_text().replace('"seen": 0', '"seen": 1')),
        "state.json has changed since it was written",
    ),
    "another format": (
        lambda f: (f / "state.json").write_text((f / "state.json").read_text().replace('"format": 1', '"format": 2')),
        "has the format 2; this genkit reads 1",
    ),
    "swapped files": (
        lambda f: shutil.copy(f / "model.safetensors", f / "random.safetensors"),
        "has changed since it was written",
    ),
    "an empty folder": (lambda f: [p.unlink() for p in f.iterdir()], "No such file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_reported_and_dropped_first(tmp_path: Path, name: str) -> None:
    damage, reason = DAMAGE[name]
    with RunDir.create(tmp_path) as run:
        save(run, 1, 2)
    damage(tmp_path / "checkpoints" / "step-000002")
    with RunDir.resume(tmp_path) as run:
        checkpoint = run.load_checkpoint()
        assert checkpoint.step == 1
        ((skipped, why),) = checkpoint.skipped
        assert skipped == "step-000002"
        assert reason in why
        save(run, 3)
        assert checkpoints(tmp_path) == ["step-000001", "step-000003"]  # two that are whole
    assert newest(tmp_path) == 3


def test_a_step_that_was_given_up_is_replaced(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1, 2, 5, keep=3)
    flip(tmp_path / "checkpoints" / "step-000005" / "model.safetensors")
    with RunDir.resume(tmp_path) as run:
        assert run.load_checkpoint().step == 2
        save(run, 3)
    assert checkpoints(tmp_path) == ["step-000002", "step-000003"]
    with RunDir.resume(tmp_path) as run:
        save(run, 5)
    assert newest(tmp_path) == 5


def test_when_all_are_damaged_the_reason_is_given(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1, 2)
    for folder in (tmp_path / "checkpoints").iterdir():
        flip(folder / "model.safetensors")
    with RunDir.resume(tmp_path) as run, pytest.raises(InputError) as caught:
        run.load_checkpoint()
    assert "cannot be resumed: every checkpoint is damaged: " in caught.value.message
    assert "step-000002/model.safetensors has changed" in caught.value.message
    assert checkpoints(tmp_path) == ["step-000001", "step-000002"]


def test_leftovers_go_when_the_run_is_opened_and_only_then(tmp_path: Path) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1)
        leftovers = [tmp_path / n / files.temporary_name() for n in (".", "checkpoints", "samples", "data")]
        for leftover in leftovers:
            leftover.parent.mkdir(exist_ok=True)
            leftover.write_text("half")
        inner = tmp_path / "checkpoints" / files.temporary_name()
        inner.mkdir()
        (inner / "model.safetensors").write_text("half")
        with pytest.raises(RunBusyError):
            RunDir.resume(tmp_path)
        assert all(leftover.exists() for leftover in leftovers)
    assert newest(tmp_path) == 1
    assert not inner.exists()
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_disk_that_does_not_keep_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDir.create(tmp_path) as run:
        save(run, 1, 2)
        fsync = os.fsync

        def corrupt(handle: int) -> None:
            name = os.readlink(f"/proc/self/fd/{handle}")
            if name.endswith("optimizer.safetensors"):
                flip(Path(name))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", corrupt)
        with pytest.raises(OutputError, match=r"optimizer\.safetensors is not read back as it was written") as caught:
            save(run, 3)
        assert caught.value.hint == "check this disk"
        monkeypatch.undo()
    assert checkpoints(tmp_path) == ["step-000001", "step-000002"]
    assert newest(tmp_path) == 2


# --- every point at which saving can fail ----------------------------------------------


class Power:
    """Counts the calls that change a disk, and fails at one of them.

    `error` raises once, as a disk does; without it the "process" dies: that call
    and all later ones raise, so no clean-up takes place either.
    """

    CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "link")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: OSError | None) -> None:
        self.at, self.error, self.done = at, error, []
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.guarded(name, getattr(os, name)))
        monkeypatch.setattr(files, "open", self.open, raising=False)

    def guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.tick(name)
            return function(*arguments, **more)

        return call

    def tick(self, name: str) -> None:
        self.done.append(name)
        if len(self.done) == self.at + 1 and self.error is not None:
            raise self.error
        if len(self.done) > self.at and self.error is None:
            raise Killed

    def open(self, path: Any, mode: str) -> Any:
        if "r" in mode:
            return open(path, mode)
        self.tick("create")
        file = open(path, mode, buffering=0)  # noqa: SIM115
        return Tracked(file, self)


class Tracked:
    """A file that tells `Power` of every write, and writes half before it fails."""

    def __init__(self, file: Any, power: Power) -> None:
        self.file, self.power = file, power

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, data: Any) -> None:
        half = len(data) // 2
        self.file.write(data[:half])
        self.power.tick("write")
        self.file.write(data[half:])

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return int(self.file.fileno())


class Killed(BaseException):
    """Nothing after this runs in a killed process."""


def prepared(path: Path, again: bool) -> tuple[RunDir, TrainState]:
    """A run with two checkpoints, and the state to save next: a new step, or its newest anew."""
    run = RunDir.create(path)
    save(run, 1, 2)
    return run, state(2 if again else 3)


@pytest.fixture
def points(tmp_path: Path) -> Callable[[bool], Iterator[int]]:
    """Numbers of the calls that a save makes."""

    def count(again: bool) -> Iterator[int]:
        run, following = prepared(tmp_path / "counted", again)
        with pytest.MonkeyPatch.context() as patch, run:
            power = Power(patch, 1 << 30, None)
            run.save_checkpoint(following)
        assert {"create", "write", "fsync", "rename", "mkdir", "unlink", "rmdir"} <= set(power.done)
        assert len(power.done) >= 25
        yield from range(len(power.done))

    return count


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_every_point_leaves_a_whole_newest_checkpoint(tmp_path: Path, points: Any, again: bool) -> None:
    found = []
    for at in points(again):
        run, following = prepared(tmp_path / str(at), again)
        with pytest.MonkeyPatch.context() as patch:
            Power(patch, at, None)
            with pytest.raises(Killed):
                run.save_checkpoint(following)
        run.close()
        found.append(newest(run.path))
        assert len(checkpoints(run.path)) >= 2
        with RunDir.resume(run.path) as resumed:
            save(resumed, 4)
        assert newest(run.path) == 4
        shutil.rmtree(run.path)
    # the old one up to some point, the new one from there on
    assert found == sorted(found)
    assert set(found) == ({2} if again else {2, 3})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("again", [False, True])
def test_an_error_at_every_point_keeps_a_whole_newest_checkpoint(
    tmp_path: Path, points: Any, again: bool, code: int
) -> None:
    for at in points(again):
        run, following = prepared(tmp_path / str(at), again)
        with pytest.MonkeyPatch.context() as patch:
            Power(patch, at, OSError(code, os.strerror(code)))
            with pytest.raises(OutputError, match=os.strerror(code)):
                run.save_checkpoint(following)
        assert run.load_checkpoint().step in (2, following.step)  # in this process too
        save(run, 4)  # and saving works again
        run.close()
        assert newest(run.path) == 4
        shutil.rmtree(run.path)


@pytest.mark.parametrize("point", ["write", "create", "mkdir"])
def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path: Path, point: str) -> None:
    run, following = prepared(tmp_path, False)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.MonkeyPatch.context() as patch:
        power = Power(patch, 1 << 30, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        power.tick = lambda name: (_ for _ in ()).throw(power.error) if name == point else None  # type: ignore[method-assign]
        with pytest.raises(OutputError) as caught:
            run.save_checkpoint(following)
    run.close()
    assert caught.value.message == f"cannot write {tmp_path}/checkpoints/step-000003: No space left on device"
    assert caught.value.hint == "free some space or choose another folder"
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert {p for p in after if p.name != "checkpoints"} == {p for p in before if p.name != "checkpoints"}
    assert all(before[p] == after[p] for p in before if p.is_file())


def test_a_disk_that_fills_up_at_any_byte_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    run, following = prepared(tmp_path, False)
    size = sum(p.stat().st_size for p in (tmp_path / "checkpoints" / "step-000002").iterdir())
    for room in range(0, size, size // 50):
        left = [room]

        def write(self: Tracked, data: Any, left: list[int] = left) -> None:
            self.file.write(data[: left[0]])
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tracked, "write", write)
            Power(patch, 1 << 30, None)
            with pytest.raises(OutputError, match="No space left on device"):
                run.save_checkpoint(following)
        assert checkpoints(tmp_path) == ["step-000001", "step-000002"]
    run.close()
    assert newest(tmp_path) == 2


def test_what_is_on_the_disk_before_each_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are synced before their folder, the folder before it gets its name, the name before old ones go."""
    run, following = prepared(tmp_path, False)
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def traced_fsync(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        done.append("sync " + ("temporary" if name.startswith(".genkit-") else name))
        fsync(handle)

    def traced_rename(old: Any, new: Any, **more: Any) -> None:
        names = ["temporary" if Path(n).name.startswith(".genkit-") else Path(n).name for n in (old, new)]
        done.append(" -> ".join(names))
        rename(old, new, **more)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    with run:
        run.save_checkpoint(following)
    assert done == [
        "sync model.safetensors",
        "sync optimizer.safetensors",
        "sync random.safetensors",
        "sync state.json",
        "sync temporary",
        "temporary -> step-000003",
        "sync checkpoints",
        "step-000001 -> temporary",
    ]


def test_one_more_checkpoint_is_spared_and_can_be_gone_back_to(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "run") as run:
        for step in range(1, 6):
            run.save_checkpoint(state(step), spare=2)
        assert checkpoints(run.path) == ["step-000002", "step-000004", "step-000005"]
        assert run.load_checkpoint(2).step == 2
        assert run.load_checkpoint(3).step == 2
        assert run.load_checkpoint().step == 5
        run.save_checkpoint(state(6), spare=5)
        assert checkpoints(run.path) == ["step-000005", "step-000006"]
        with pytest.raises(InputError, match="there is no checkpoint"):
            run.load_checkpoint(1)
        run.save_checkpoint(state(3), spare=5)  # gone back to before it
        assert checkpoints(run.path) == ["step-000003"]

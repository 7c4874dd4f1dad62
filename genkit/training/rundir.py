"""Run directories: a model, its metrics and samples, and checkpoints that survive.

    RUN/.lock .genkit-run          held by the process that trains; mark of a run
        checkpoints/step-000100/   one file a module, optimizer, random; state.json last
        metrics.jsonl samples/     what the loop reports
        data/                      the prepared data
        config.json ...            the published model;  best/  the best one so far
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from genkit import files
from genkit.errors import InputError, OutputError, RunBusyError, TrainingStopped, UsageError
from genkit.training.state import Checkpoint, TrainState
from genkit.training.weights import read_tensors, save_tensors, write_tensors

LOCK, MARK, FORMAT = ".lock", ".genkit-run", 1
OURS = frozenset(
    "metrics.jsonl samples checkpoints best data tensorboard model.safetensors config.json genkit.json "
    "generator.onnx tokenizer.json tokenizer_config.json generation_config.json".split()
)
"""What genkit writes into a run, besides the lock and the mark."""


class RunDir:
    """An open run directory; a context manager that holds its lock.

    Ranks other than the main one open it with `is_main=False`: they take no lock,
    write nothing, and read checkpoints like the main rank.

    Attributes:
        path: the directory.
        metrics_path: its metrics.jsonl.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_main: bool = True) -> None:
        self.path = Path(path)
        self.metrics_path = self.path / "metrics.jsonl"
        self._is_main = is_main
        self._lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
        self._damaged: set[str] = set()

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, force: bool = False, is_main: bool = True) -> Self:
        """Start a run in a new or empty directory.

        Args:
            force: empty an existing run first; files that genkit did not write stay.

        Raises:
            UsageError: the directory holds a run, or foreign files.
            RunBusyError: another process trains there.
            OutputError: it cannot be written.
        """
        run = cls(path, is_main=is_main)
        if not is_main:
            return run
        with files.output_errors(path):
            run.path.mkdir(parents=True, exist_ok=True)
            if not (run.path / MARK).exists() and (foreign := run._contents()):
                raise UsageError(f"{path} is not empty and no run: it holds {foreign[0]}", "choose another --out")
        run._acquire()
        try:
            with files.output_errors(path):
                files.write_json(run.path / MARK, {"format": FORMAT})
                run._remove_leftovers()
                if force:
                    for name in sorted(OURS & set(run._contents())):
                        _remove(run.path / name)
                elif present := sorted(OURS & set(run._contents())):
                    raise UsageError(
                        f"{path} already holds a run ({present[0]})", "--resume continues it, --force starts anew"
                    )
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, is_main: bool = True) -> Self:
        """Open an existing run to continue it.

        Raises:
            InputError: no run, or a run without a checkpoint.
            RunBusyError: another process trains there.
        """
        run = cls(path, is_main=is_main)
        if not (run.path / MARK).is_file():
            raise InputError(f"{path} is not a run directory", "start it without --resume")
        if not is_main:
            return run
        run._acquire()
        try:
            with files.output_errors(path):
                run._remove_leftovers()
            if not run._steps():
                raise InputError(f"{path} has no checkpoint to resume from", "--force starts the run anew")
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def samples(self) -> Path:
        """Folder of samples drawn while training."""
        return self._folder("samples")

    @property
    def data(self) -> Path:
        """Folder of prepared data."""
        return self._folder("data")

    def save_checkpoint(self, state: TrainState, *, keep: int = 2) -> Path:
        """Write a checkpoint, read it back, and only then drop older ones.

        Until the new folder is whole and on the disk, it has a temporary name.

        Args:
            keep: checkpoints to leave, the new one included.

        Raises:
            TrainingStopped: a weight is not finite; nothing is written.
            OutputError: disk full or not writable; older checkpoints stay.
        """
        target = self.path / "checkpoints" / f"step-{state.step:06d}"
        if not self._is_main:
            return target
        tensors, meta = state.tensors(), state.meta()
        for name in state.modules:
            _check_finite(name, tensors[name], state.step)
        parent = self._folder("checkpoints")
        temporary = parent / files.temporary_name()
        with files.output_errors(target):
            try:
                temporary.mkdir()
                _write_checkpoint(temporary, tensors, meta)
                _verify(temporary, target)
                _replace_folder(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            self._prune(state.step, keep)
        return target

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose files are as they were written; None where there is none.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        skipped: list[tuple[str, str]] = []
        for folder in reversed(self._steps()):
            try:
                tensors, meta = _read_checkpoint(folder)
            except InputError as error:
                skipped.append((folder.name, error.message))
            else:
                self._damaged.update(name for name, _ in skipped)
                return Checkpoint(folder, tensors, meta, tuple(skipped))
        if skipped:
            raise InputError(f"every checkpoint of {self.path} is damaged: {skipped[0][1]}", "--force starts anew")
        return None

    def publish(
        self,
        *,
        raw: Mapping[str, bytes] | None = None,
        tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
        json: Mapping[str, Mapping[str, Any]] | None = None,
        folder: str = ".",
    ) -> Path:
        """Write model files into the run, each atomically, by file name; JSON last.

        Args:
            tensors: safetensors files; floating point becomes float32.
            folder: "." for the run itself, "best" for the best model.

        Raises:
            TrainingStopped: a weight is not finite; nothing is written.
            OutputError: disk full or not writable.
        """
        target = self.path / folder
        if not self._is_main:
            return target
        for name, group in (tensors or {}).items():
            _check_finite(name, group)
        if folder != ".":
            self._folder(folder)
        for name, data in (raw or {}).items():
            files.write_bytes(target / name, data)
        for name, group in (tensors or {}).items():
            plain = {k: t.detach().float() if t.is_floating_point() else t for k, t in group.items()}
            save_tensors(target / name, plain, {"format": "pt"})
        for name, value in (json or {}).items():
            files.write_json(target / name, value)
        return target

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        if not folder.is_dir():
            with files.output_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                files.sync_folder(self.path)
        return folder

    def _acquire(self) -> None:
        with files.output_errors(self.path):
            try:
                self._lock.acquire()
            except Timeout:
                raise RunBusyError(
                    f"another process is training in {self.path}", "wait for it, or choose another --out"
                ) from None

    def _contents(self) -> list[str]:
        return sorted(n for n in os.listdir(self.path) if n not in (LOCK, MARK) and not n.startswith(".genkit-"))

    def _steps(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted((f for f in found if re.fullmatch(r"step-\d+", f.name)), key=_step)

    def _prune(self, newest: int, keep: int) -> None:
        # later steps were given up when an older checkpoint was resumed
        gone = {f for f in self._steps() if f.name in self._damaged or _step(f) > newest}
        gone |= set([f for f in self._steps() if f not in gone][: -max(keep, 1)])
        gone.discard(self.path / "checkpoints" / f"step-{newest:06d}")
        for folder in gone:
            _remove(folder)
        self._damaged.clear()

    def _remove_leftovers(self) -> None:
        """What killed processes left; a checkpoint that was being replaced comes back."""
        for old in (self.path / "checkpoints").glob("old-step-*"):
            target = old.with_name(old.name.removeprefix("old-"))
            shutil.rmtree(old) if target.exists() else old.rename(target)
        for folder in (self.path, *(self.path / name for name in ("checkpoints", "best", "samples", "data"))):
            for leftover in folder.glob(files.TEMPORARY):
                _remove(leftover)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _check_finite(name: str, tensors: Mapping[str, Tensor], step: int | None = None) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            at = "" if step is None else f" at step {step}"
            raise TrainingStopped(f"{name}: {key} is not finite{at}, so it was not saved", "use a lower --lr")


def _write_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], meta: dict[str, Any]) -> None:
    hashes = {}
    for stem, group in sorted(tensors.items()):
        with files.synced(folder / f"{stem}.safetensors") as file:
            hashes[f"{stem}.safetensors"] = write_tensors(file, group)
    body = {"format": FORMAT, "files": hashes, "meta": meta}
    text = json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True, allow_nan=False)
    with files.synced(folder / "state.json") as file:
        file.write(text.encode() + b"\n")
    files.sync_folder(folder)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    state = files.read_json(folder / "state.json")
    said = state.pop("sha256", None)
    if state.get("format") != FORMAT:
        raise InputError(f"{folder} has the format {state.get('format')!r}; this genkit reads {FORMAT}")
    if said != _digest(state):
        raise InputError(f"{folder / 'state.json'} has changed since it was written")
    return state


def _verify(folder: Path, target: Path) -> None:
    try:
        said = _read_state(folder)["files"]
        found = {name: files.sha256(folder / name) for name in said}
    except InputError as error:
        raise OutputError(f"{target} cannot be read back: {error.message}", "check this disk") from error
    if wrong := [name for name in said if said[name] != found[name]]:
        raise OutputError(f"{target}: {wrong[0]} is not read back as it was written", "check this disk")


def _read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    state = _read_state(folder)
    tensors = {}
    for name, said in state["files"].items():
        tensors[name.removesuffix(".safetensors")], found = read_tensors(folder / name)
        if found != said:
            raise InputError(f"{folder / name} has changed since it was written")
    return tensors, state["meta"]


def _replace_folder(new: Path, target: Path) -> None:
    """Rename a folder into place; the one it replaces can be brought back until then."""
    old = target.with_name(f"old-{target.name}")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    files.sync_folder(target.parent)
    if old.exists():
        _remove(old)


def _remove(path: Path) -> None:
    """Delete a file or folder; a folder at once, under a name that nobody takes for whole."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if not path.match(files.TEMPORARY):
        path = path.rename(path.with_name(files.temporary_name()))
    shutil.rmtree(path)

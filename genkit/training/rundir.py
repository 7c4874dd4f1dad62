"""Run directories: a model, its metrics and samples, and checkpoints that survive.

RUN/.lock .genkit-run          held by the process that trains; mark of a run
    checkpoints/step-000100/   one file a module, optimizer, random; state.json last
    metrics.jsonl samples/     what the loop reports
    data/                      the prepared data
    config.json ...            the published model
    best/                      the model that measured best
    .genkit-aside/             the run that --force replaces, until the new one has a checkpoint
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from genkit import files
from genkit.errors import InputError, RunBusyError, TrainingStopped, UsageError
from genkit.library import RUN_MARK
from genkit.runtime.parallel import gathered
from genkit.runtime.ranks import Ranks
from genkit.training.checkpoint import (
    FORMAT,
    Checkpoint,
    read_checkpoint,
    remove,
    replace_folder,
    step_of,
    verify_checkpoint,
    write_checkpoint,
)
from genkit.training.state import TrainState
from genkit.training.weights import save_tensors

LOCK, MARK = ".lock", RUN_MARK
ASIDE, MOVING = ".genkit-aside", ".genkit-moving"  # an old run set aside; one that is on its way there or back
BEST = "best"  # folder of the model that measured best
BEFORE_SAVING = {"metrics.jsonl", "checkpoints", "data", "tensorboard"}
"""All that a run holds before its first checkpoint, besides the lock and the mark."""
OURS = BEFORE_SAVING | {
    "samples", BEST, "adapter", "curves.png", "model.safetensors", "config.json", "genkit.json", "generator.onnx",
    "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm",
}  # fmt: skip
"""What genkit writes into a run, besides the lock and the mark."""


class RunDir:
    """An open run directory; a context manager that holds its lock.

    Under torchrun every rank opens it and calls the same methods: rank 0 locks and
    writes, the others wait, read, and raise the error that it has.

    Attributes:
        path: the directory.
        metrics_path: its metrics.jsonl.
    """

    def __init__(self, path: str | os.PathLike[str], *, ranks: Ranks | None = None) -> None:
        self.path = Path(path)
        self.metrics_path = self.path / "metrics.jsonl"
        self._ranks = ranks if ranks is not None else Ranks()
        self._lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
        self._damaged: set[str] = set()
        self._new = False
        self._made: list[Path] = []  # folders that did not exist before, outermost first

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, force: bool = False, ranks: Ranks | None = None) -> Self:
        """Start a run in a new or empty directory, or in one where a start failed.

        Args:
            force: replace an existing run; files that genkit did not write stay. Until the
                first checkpoint it lies aside, and an error before that puts it back.

        Raises:
            UsageError: the directory holds a run, or foreign files.
            RunBusyError: another process trains there.
            OutputError: it cannot be written.
        """
        run = cls(path, ranks=ranks)
        run._open(lambda: run._begin(force))
        return run

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, ranks: Ranks | None = None) -> Self:
        """Open an existing run to continue it.

        Raises:
            InputError: no run, or a run without a checkpoint.
            RunBusyError: another process trains there.
        """
        run = cls(path, ranks=ranks)
        run._open(run._continue)
        return run

    def _open(self, prepare: Callable[[], None]) -> None:
        with self._ranks.main_first():
            if not self._ranks.is_main:
                if not (self.path / MARK).is_file():
                    raise InputError(f"{self.path} is not here", "--out must lie on a disk that all machines share")
                return
            try:
                prepare()
            except BaseException:
                self.close()
                raise

    def _begin(self, force: bool) -> None:
        path = self.path
        with files.output_errors(path):
            self._made = [f for f in (*reversed(path.parents), path) if not f.exists()]
            path.mkdir(parents=True, exist_ok=True)
            if not (path / MARK).exists() and (foreign := self._contents()):
                raise UsageError(f"{path} is not empty and no run: it holds {foreign[0]}", "choose another --out")
        self._acquire()
        with files.output_errors(path):
            files.write_json(path / MARK, {"format": FORMAT})
            self._remove_leftovers()
            present = OURS & set(self._contents())
            if self._steps() or present - BEFORE_SAVING:
                if not force:
                    raise UsageError(
                        f"{path} already holds a run ({min(present)})",
                        "--resume continues it, --force starts anew",
                    )
                self._set_aside()
            else:
                self._clear()
        self._new = True

    def _continue(self) -> None:
        if not (self.path / MARK).is_file():
            raise InputError(f"{self.path} is not a run directory", "start it without --resume")
        self._acquire()
        with files.output_errors(self.path):
            self._remove_leftovers()
        if not self._steps():
            raise InputError(f"{self.path} cannot be resumed: there is no checkpoint", "start it without --resume")

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._new and not self._steps():
            with contextlib.suppress(OSError):  # the next start tries again; `error` says more
                self._undo()
        self.close()

    def _undo(self) -> None:
        """Take back a new run that failed before it saved anything, so that the command can be repeated."""
        self._clear()
        self._put_back()
        if self._contents():  # an old run, or somebody else's files
            return
        for name in (MARK, LOCK):
            remove(self.path / name)
        with contextlib.suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()

    def _clear(self) -> None:
        for name in sorted(OURS & set(self._contents())):
            remove(self.path / name)

    def _set_aside(self) -> None:
        """Move an old run away; it counts as moved, and may be written over, once `ASIDE` has its name."""
        moving = self.path / MOVING
        moving.mkdir()
        try:
            for name in sorted(OURS & set(self._contents())):
                (self.path / name).rename(moving / name)
            moving.rename(self.path / ASIDE)
            files.sync_folder(self.path)
        except OSError:
            self._put_back()
            raise

    def _put_back(self) -> None:
        """Undo `_set_aside`, also one that was cut short, unless the new run has a checkpoint."""
        aside, moving = self.path / ASIDE, self.path / MOVING
        if aside.is_dir():
            if self._steps():
                remove(aside)
                return
            self._clear()
            aside.rename(moving)
        if moving.is_dir():
            for old in sorted(moving.iterdir()):
                old.rename(self.path / old.name)
            moving.rmdir()

    @property
    def samples(self) -> Path:
        """Folder of samples drawn while training."""
        return self._folder("samples")

    @property
    def data(self) -> Path:
        """Folder of prepared data."""
        return self._folder("data")

    def save_checkpoint(self, state: TrainState, *, keep: int = 2, spare: int | None = None) -> Path:
        """Write a checkpoint, read it back, and only then drop older ones.

        Until the new folder is whole and on the disk, it has a temporary name.

        Args:
            keep: checkpoints to leave, the new one included.
            spare: step of one more that is left.

        Raises:
            TrainingStopped: a weight is not finite; nothing is written.
            OutputError: disk full or not writable; older checkpoints stay.
        """
        target = self.path / "checkpoints" / f"step-{state.step:06d}"
        keeps = self._ranks.is_main
        tensors = {name: gathered(group, keep=keeps) for name, group in state.tensors().items()}
        with self._ranks.main_first():
            if keeps:
                for name in state.modules:
                    _check_finite(name, tensors[name], state.step)
                self._write(target, tensors, state.meta(), keep, spare)
        return target

    def _write(
        self,
        target: Path,
        tensors: dict[str, dict[str, Tensor]],
        meta: dict[str, Any],
        keep: int,
        spare: int | None,
    ) -> None:
        parent = self._folder("checkpoints")
        temporary = parent / files.temporary_name()
        with files.output_errors(target):
            try:
                temporary.mkdir()
                write_checkpoint(temporary, tensors, meta)
                verify_checkpoint(temporary, target)
                replace_folder(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            self._prune(step_of(target), keep, spare)
            if (aside := self.path / ASIDE).is_dir():
                remove(aside)

    def load_checkpoint(self, up_to: int | None = None) -> Checkpoint:
        """The newest checkpoint whose files are as they were written.

        Args:
            up_to: the latest step that is wanted.

        Raises:
            InputError: there is none, or all are damaged.
        """
        skipped: list[tuple[str, str]] = []
        for folder in reversed([f for f in self._steps() if up_to is None or step_of(f) <= up_to]):
            try:
                tensors, meta = read_checkpoint(folder)
            except InputError as error:
                skipped.append((folder.name, error.message))
            else:
                self._damaged.update(name for name, _ in skipped)
                return Checkpoint(folder, tensors, meta, tuple(skipped))
        problem = f"every checkpoint is damaged: {skipped[0][1]}" if skipped else "there is no checkpoint"
        raise InputError(f"{self.path} cannot be resumed: {problem}", "--force starts the run anew")

    def publish(
        self,
        *,
        raw: Mapping[str, bytes] | None = None,
        tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
        json: Mapping[str, Mapping[str, Any]] | None = None,
        into: str = "",
    ) -> None:
        """Write model files into the run, each atomically, by file name; JSON last.

        Args:
            into: a folder of the run, instead of its root.
            tensors: safetensors files; floating point becomes float32.

        Raises:
            TrainingStopped: a weight is not finite; nothing is written.
            OutputError: disk full or not writable.
        """
        keeps = self._ranks.is_main
        groups = {name: gathered(group, keep=keeps) for name, group in (tensors or {}).items()}
        with self._ranks.main_first():
            if not keeps:
                return
            folder = self._folder(into) if into else self.path
            for name, group in groups.items():
                _check_finite(name, group)
            for name, data in (raw or {}).items():
                files.write_bytes(folder / name, data)
            for name, group in groups.items():
                plain = {k: t.detach().float() if t.is_floating_point() else t for k, t in group.items()}
                save_tensors(folder / name, plain, {"format": "pt"})
            for name, value in (json or {}).items():
                files.write_json(folder / name, value)

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
        return sorted((f for f in found if re.fullmatch(r"step-\d+", f.name)), key=step_of)

    def _prune(self, newest: int, keep: int, spare: int | None) -> None:
        # later steps were given up when an older checkpoint was resumed
        gone = {f for f in self._steps() if f.name in self._damaged or step_of(f) > newest}
        gone |= set([f for f in self._steps() if f not in gone][: -max(keep, 1)])
        if spare is not None and spare <= newest:
            gone -= {f for f in gone if step_of(f) == spare and f.name not in self._damaged}
        gone.discard(self.path / "checkpoints" / f"step-{newest:06d}")
        for folder in gone:
            remove(folder)
        self._damaged.clear()

    def _remove_leftovers(self) -> None:
        """What killed processes left; a checkpoint or run that was being replaced comes back."""
        self._put_back()
        for old in (self.path / "checkpoints").glob("old-step-*"):
            target = old.with_name(old.name.removeprefix("old-"))
            shutil.rmtree(old) if target.exists() else old.rename(target)
        for folder in (
            self.path,
            *(self.path / name for name in ("checkpoints", "samples", "data", "adapter", BEST, f"{BEST}/adapter")),
        ):
            for leftover in folder.glob(files.TEMPORARY):
                remove(leftover)


def _check_finite(name: str, tensors: Mapping[str, Tensor], step: int | None = None) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            at = "" if step is None else f" at step {step}"
            raise TrainingStopped(f"{name}: {key} is not finite{at}, so it was not saved", "use a lower --lr")

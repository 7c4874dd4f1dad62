"""One checkpoint: a folder of safetensors files and, written last, the `state.json` that vouches for them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genkit import files
from genkit.errors import InputError, OutputError
from genkit.training.weights import read_tensors, write_tensors

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: what `TrainState.tensors` and `TrainState.meta` gave.

    Attributes:
        path: its folder.
        skipped: newer checkpoints that are damaged, each with the reason.
    """

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def step(self) -> int:
        return int(self.meta["step"])


def step_of(folder: Path) -> int:
    """100 for `step-000100`."""
    return int(folder.name.removeprefix("step-"))


def write_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], meta: dict[str, Any]) -> None:
    """Fill an empty folder and have it on the disk; equal states give equal bytes."""
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
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    state = files.read_json(folder / "state.json")
    said = state.pop("sha256", None)
    if state.get("format") != FORMAT:
        raise InputError(f"{folder} has the format {state.get('format')!r}; this genkit reads {FORMAT}")
    if said != _digest(state):
        raise InputError(f"{folder / 'state.json'} has changed since it was written")
    return state


def verify_checkpoint(folder: Path, target: Path) -> None:
    """Read a folder back that will be called `target`.

    Raises:
        OutputError: it is not what was written.
    """
    try:
        said = _read_state(folder)["files"]
        found = {name: files.sha256(folder / name) for name in said}
    except InputError as error:
        raise OutputError(f"{target} cannot be read back: {error.message}", "check this disk") from error
    if wrong := [name for name in said if said[name] != found[name]]:
        raise OutputError(f"{target}: {wrong[0]} is not read back as it was written", "check this disk")


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """File stem -> name -> tensor, and the JSON side; hashed while it is read.

    Raises:
        InputError: a file is missing or has changed.
    """
    state = _read_state(folder)
    tensors = {}
    for name, said in state["files"].items():
        tensors[name.removesuffix(".safetensors")], found = read_tensors(folder / name)
        if found != said:
            raise InputError(f"{folder / name} has changed since it was written")
    return tensors, state["meta"]


def replace_folder(new: Path, target: Path) -> None:
    """Rename a folder into place; the one it replaces can be brought back until then."""
    old = target.with_name(f"old-{target.name}")
    if target.exists():
        if old.exists():
            remove(old)
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    files.sync_folder(target.parent)
    if old.exists():
        remove(old)


def remove(path: Path) -> None:
    """Delete a file or folder; a folder at once, under a name that nobody takes for whole."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if not path.match(files.TEMPORARY):
        path = path.rename(path.with_name(files.temporary_name()))
    shutil.rmtree(path)

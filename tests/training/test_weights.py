"""safetensors written by us equal those of the safetensors library; reading is strict."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from genkit import files
from genkit.errors import InputError, OutputError
from genkit.training import weights
from genkit.training.weights import copy_weights, load_tensors, read_tensors, save_tensors

EVERY_DTYPE = [torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16,
               torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.float64, torch.int64,
               torch.uint64]  # fmt: skip


def assorted() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {f"t.{str(d).split('.')[1]}": (torch.rand(3, 5) * 100).to(d) for d in EVERY_DTYPE}
    return tensors | {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "größe 猫": torch.tensor([float("nan"), float("inf"), -0.0]),
        'quo"te\\': torch.tensor([1]),
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and weights._bytes(a).tobytes() == weights._bytes(b).tobytes()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_bytes_are_those_of_the_safetensors_library(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    tensors = assorted()
    digest = save_tensors(tmp_path / "a", tensors, metadata)
    data = (tmp_path / "a").read_bytes()
    assert data == safetensors.torch.save(tensors, metadata)
    assert digest == hashlib.sha256(data).hexdigest() == files.sha256(tmp_path / "a")


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    tensors = assorted()
    turned = dict(reversed(tensors.items()))
    assert save_tensors(tmp_path / "a", tensors, {"x": "1", "y": "2"}) == save_tensors(
        tmp_path / "b", turned, {"y": "2", "x": "1"}
    )


def test_the_round_trip_is_bit_exact_and_hashed(tmp_path: Path) -> None:
    tensors = assorted()
    digest = save_tensors(tmp_path / "a", tensors)
    back, said = read_tensors(tmp_path / "a")
    assert said == digest
    assert set(back) == set(tensors)
    assert all(same(back[name], tensors[name]) for name in tensors)
    back["scalar"].add_(1)  # memory of its own
    assert load_tensors(tmp_path / "a")["scalar"] == 2.5


def test_the_library_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    tensors = assorted()
    save_tensors(tmp_path / "ours", tensors)
    safetensors.torch.save_file(tensors, tmp_path / "its")
    for back in (safetensors.torch.load_file(tmp_path / "ours"), load_tensors(tmp_path / "its")):
        assert all(same(back[name], tensors[name]) for name in tensors)


def test_views_strides_and_shared_memory_are_written_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "transposed": base.transpose(0, 2),
        "slice": base[:, 1:, ::2],
        "expanded": torch.ones(1).expand(3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "tied": base,
        "tied too": base,
        "parameter": nn.Parameter(torch.ones(2)),
    }
    save_tensors(tmp_path / "a", tensors)
    back = load_tensors(tmp_path / "a")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_the_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    save_tensors(tmp_path / "a", {"x": torch.ones(1)})
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_full_disk_at_any_byte_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    digest = save_tensors(path, {"x": torch.zeros(10)})
    size = len(safetensors.torch.save({"x": torch.ones(10)}))
    for room in range(size):
        with monkeypatch.context() as patch:
            patch.setattr(files, "open", lambda name, mode, room=room: Full(name, mode, room), raising=False)
            with pytest.raises(OutputError, match="No space left on device"):
                save_tensors(path, {"x": torch.ones(10)})
        assert files.sha256(path) == digest
        assert os.listdir(tmp_path) == ["a"]


class Full:
    """A file on a disk with `room` bytes left."""

    def __init__(self, name: Any, mode: str, room: int) -> None:
        self.file, self.room = open(name, mode, buffering=0), room  # noqa: SIM115

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, data: Any) -> None:
        data = bytes(data)
        self.file.write(data[: self.room])
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name) if name != "flush" else lambda: None


@pytest.mark.parametrize("cut", [1, 7, 8, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    save_tensors(tmp_path / "a", {"x": torch.ones(10)})
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[:cut])
    with pytest.raises(InputError):
        load_tensors(tmp_path / "a")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    save_tensors(path, {"x": torch.ones(100_000)})
    check = files.read_header

    def then_cut(file: Any, name: Any) -> Any:
        found = check(file, name)
        os.truncate(path, 100_000)
        return found

    monkeypatch.setattr(files, "read_header", then_cut)
    with pytest.raises(InputError, match="became shorter"):
        load_tensors(path)


# --- into modules ----------------------------------------------------------------------


def test_copying_fills_parameters_and_buffers_and_casts_floats(tmp_path: Path) -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.normal_(source.weight)
    source.running_var.fill_(7)
    source.num_batches_tracked.fill_(1 << 40)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    save_tensors(tmp_path / "a", halves)
    before = target.weight
    copy_weights(target, load_tensors(tmp_path / "a"), "a")
    assert target.weight is before
    assert target.weight.requires_grad
    assert torch.equal(target.weight, source.weight.half().float())
    assert target.running_var.tolist() == [7, 7, 7]
    assert target.num_batches_tracked == 1 << 40


def test_copying_names_everything_that_differs(tmp_path: Path) -> None:
    save_tensors(
        tmp_path / "model.safetensors",
        {"weight": torch.ones(3, 2), "extra": torch.ones(1)} | {f"more.{i}": torch.ones(1) for i in range(5)},
    )
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with pytest.raises(InputError) as caught:
        copy_weights(module, load_tensors(tmp_path / "model.safetensors"), "model.safetensors")
    assert caught.value.message == (
        "model.safetensors does not fit this model: missing: bias; unexpected: extra, more.0, more.1 and 3 more; "
        "different: weight is float32[3, 2], not float32[2, 2]"
    )
    assert torch.equal(module.weight, before)


def test_integers_for_floats_are_refused() -> None:
    with pytest.raises(InputError, match=r"bias is int64\[2\], not float32\[2\]"):
        copy_weights(nn.Linear(2, 2), {"weight": torch.ones(2, 2), "bias": torch.ones(2, dtype=torch.int64)}, "a")


class Compiled(nn.Module):
    """Names parameters as torch.compile does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_prefixes_of_compiled_modules_are_dropped() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = list(module.state_dict())
    compiled = Compiled(nn.Sequential(Compiled(module[0]), module[1]))
    assert next(iter(compiled.state_dict())) == "_orig_mod.0._orig_mod.weight"
    assert list(weights.named_tensors(compiled)) == names
    copy_weights(compiled, {name: torch.full_like(t, 3) for name, t in module.state_dict().items()}, "a")
    assert all((t == 3).all() for t in module.parameters())


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04\x95\x10\x00\x00\x00")
    with pytest.raises(InputError, match="is a pickle, which can run code when opened") as caught:
        load_tensors(tmp_path / "model.safetensors")
    assert caught.value.hint == "genkit reads weights from safetensors only"


def test_the_header_is_padded_so_that_data_are_aligned(tmp_path: Path) -> None:
    for length in range(1, 20):
        save_tensors(tmp_path / "a", {"n" * length: torch.ones(1, dtype=torch.float64)})
        data = (tmp_path / "a").read_bytes()
        header = int.from_bytes(data[:8], "little")
        assert header % 8 == 0
        assert json.loads(data[8 : 8 + header]) == {
            "n" * length: {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
        }

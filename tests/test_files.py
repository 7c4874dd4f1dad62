"""Atomic writing, and refusing weight files that are not what they claim."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genkit import files
from genkit.errors import InputError, OutputError

needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


# --- writing ---------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda value: os.umask(value) and None
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, umask: Any, mask: int, mode: int) -> None:
    umask(mask)
    files.write_bytes(tmp_path / "a", b"new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o600)
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with files.atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises((type(error), OutputError)), files.atomic_write(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_writing_syncs_the_file_before_the_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file {os.fstat(handle).st_size}")
        fsync(handle)

    def traced_replace(*names: Any) -> None:
        done.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    files.write_bytes(tmp_path / "a", b"12345")
    assert done == ["file 5", "rename", "folder"]


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_of_the_disk_becomes_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, code: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, point, fail)
    with pytest.raises(OutputError, match=os.strerror(code)):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_written_in_place() -> None:
    with pytest.raises(OutputError) as caught:
        files.write_bytes("/dev/full", b"x" * 100_000)
    assert caught.value.message == "cannot write /dev/full: No space left on device"
    assert caught.value.hint == "free some space or choose another folder"


def test_a_folder_a_missing_parent_and_a_file_as_parent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, remedy in {
        tmp_path: "this is a folder; give a file name",
        tmp_path / "none" / "a": "create the folder first",
        tmp_path / "file" / "a": "a part of this path is a file; choose another",
        tmp_path / ("a" * 300): "choose a shorter name",
    }.items():
        with pytest.raises(OutputError) as caught:
            files.write_bytes(path, b"x")
        assert caught.value.hint == remedy
    assert os.listdir(tmp_path) == ["file"]


@needs_user
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        files.write_bytes(tmp_path / "a", b"x")
    tmp_path.chmod(0o700)


def test_no_clobber_refuses_before_and_after_the_writing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_bytes(path, b"first", clobber=False)
    with pytest.raises(OutputError, match="exists"):
        files.write_bytes(path, b"second", clobber=False)
    late = tmp_path / "b"
    with pytest.raises(OutputError, match="exists"), files.atomic_write(late, clobber=False) as file:  # noqa: PT012
        file.write(b"mine")
        late.write_bytes(b"theirs")
    assert path.read_bytes() == b"first"
    assert late.read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_no_clobber_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    files.write_bytes(tmp_path / "a", b"x", clobber=False)
    assert (tmp_path / "a").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["a"]


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/target")
    for data in (b"through a dangling link", b"again"):
        files.write_bytes(tmp_path / "link", data)
        assert (tmp_path / "folder" / "target").read_bytes() == data
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "folder") == ["target"]


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    files.write_bytes(tmp_path / "pipe", b"through")
    reader.join()
    assert got == [b"through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_dev_stdout_appends_where_the_shell_pointed_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before ")
    with open(log, "ab") as target:
        code = "from genkit.files import write_bytes; write_bytes('/dev/stdout', b'after')"
        subprocess.run([sys.executable, "-c", code], stdout=target, check=True, cwd=Path(__file__).parents[1])
    assert log.read_bytes() == b"before after"


def test_a_closed_pipe_stays_a_broken_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        files.write_bytes(f"/dev/fd/{write}", b"x" * 100_000)
    os.close(write)


def test_errors_about_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "a"):
        (tmp_path / "input").read_bytes()
    assert os.listdir(tmp_path) == []


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = (
        "import os, signal\nfrom genkit.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as f:\n    f.write(b'new'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    (leftover,) = tmp_path.glob(files.TEMPORARY)
    assert leftover.read_bytes() == b"new"


# --- JSON and hashes -------------------------------------------------------------------


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"name": "Ä 猫 \udc80", "number": 0.1 + 0.2, "list": [1, None, True]}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    (tmp_path / "a.json").read_bytes().decode("utf-8")  # strict, whatever the text


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert files.read_json(tmp_path / "a.json") == {"old": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b"[1]", "holds a JSON list, not an object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b" " * (files.MAX_JSON + 1), "is over 16 MB"),
    ],
)
def test_read_json_refuses(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=message):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [files.read_json, files.sha256, files.check_safetensors])
def test_reading_a_missing_file_a_folder_or_a_pipe_is_refused_at_once(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in {"none": "cannot read .*No such file", ".": "is not a file", "pipe": "is not a file"}.items():
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)


def test_bytes_that_are_not_utf8_are_named() -> None:
    assert files.decode_utf8("ä".encode()) == "ä"
    with pytest.raises(InputError) as caught:
        files.decode_utf8(b"ab\xff", "x.txt")
    assert str(caught.value) == "x.txt is not UTF-8 (byte 2 is 0xff) (convert it with iconv)"


def test_sha256_of_the_standard_example(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- safetensors -----------------------------------------------------------------------

FINE = {"a": ("F32", [2, 2], [0, 16]), "b": ("BF16", [0, 3], [16, 16]), "c": ("I64", [], [16, 24])}


def entry(dtype: Any, shape: Any, offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def pack(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), size: int = 8) -> bytes:
    return pack({"a": entry(dtype, shape, offsets)}, bytes(size))


def two(first: tuple[int, int], second: tuple[int, int], size: int) -> bytes:
    return pack({"a": entry("U8", [first[1] - first[0]], first), "b": entry("U8", [second[1] - second[0]], second)},
                bytes(size))  # fmt: skip


def test_check_safetensors_returns_the_header(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}} | {k: entry(*v) for k, v in FINE.items()}
    (tmp_path / "a").write_bytes(pack(header, bytes(24)))
    assert files.check_safetensors(tmp_path / "a") == header


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(pack(b"{}".ljust(length)))
    assert files.check_safetensors(tmp_path / "a") == {}


def test_a_file_without_tensors_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pack(b"{}      "))
    assert files.check_safetensors(tmp_path / "a") == {}


HOSTILE = {
    "empty": (b"", "is empty"),
    "seven bytes": (b"1234567", "truncated"),
    "pickle": (b"\x80\x02}q\x00.", "is a pickle"),
    "pickle 5": (b"\x80\x05\x95" + bytes(30), "is a pickle"),
    "zip": (b"PK\x03\x04" + bytes(30), "is a zip archive"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(30), "is a GGUF file"),
    "html": (b"\n<!DOCTYPE html><html>", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "text": (b"Once upon a time there was", "truncated or not safetensors"),
    "header past the end": (pack(b"{}", length=3), "truncated or not safetensors"),
    "huge length": (pack(b"{}", length=(1 << 64) - 1), "truncated or not safetensors"),
    "data cut off": (one(size=7), "end at byte 8 of 7"),
    "trailing bytes": (one(size=9), "end at byte 8 of 9"),
    "not JSON": (pack(b"{nope}"), "bad header"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "bad header"),
    "deep": (pack(b'{"a":' + b"[" * 200_000), "bad header"),
    "list": (pack([]), "no JSON object"),
    "duplicate key": (pack(b'{"a":1,"a":1}'), "twice"),
    "duplicate key inside": (pack(b'{"a":{"dtype":"U8","dtype":"U8"}}'), "twice"),
    "metadata number": (pack({"__metadata__": {"a": 1}}), "metadata are not text"),
    "metadata list": (pack({"__metadata__": []}), "metadata are not text"),
    "entry is a number": (pack({"a": 1}), "lacks dtype"),
    "no dtype": (pack({"a": {"shape": [], "data_offsets": [0, 0]}}), "lacks dtype"),
    "unknown dtype": (one("F31"), "unknown dtype 'F31'"),
    "dtype list": (one(["F32"]), "unknown dtype"),
    "negative size": (one(shape=[-2]), "not sizes"),
    "float size": (one(shape=[2.0]), "not sizes"),
    "boolean size": (one(shape=[True], offsets=[0, 4], size=4), "not sizes"),
    "shape is text": (one(shape="2"), "not sizes"),
    "overflowing shape": (one(shape=[1 << 62, 1 << 62]), "does not fill"),
    "size over 63 bits": (one(shape=[1 << 63]), "not sizes"),
    "65 dimensions": (one(shape=[1] * 65, offsets=[0, 4], size=4), "not sizes"),
    "one offset": (one(offsets=[0]), "not sizes"),
    "offsets reversed": (one(offsets=[8, 0]), "does not fill"),
    "shape and bytes differ": (one(shape=[3]), "does not fill"),
    "offset past the end": (one(offsets=[8, 16]), "begins at byte 8, not 0"),
    "hole": (two((0, 4), (5, 9), 9), "begins at byte 5, not 4"),
    "overlap": (two((0, 4), (3, 7), 7), "begins at byte 3, not 4"),
    "same bytes twice": (two((0, 4), (0, 4), 4), "begins at byte 0, not 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_check_safetensors_refuses(tmp_path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=message):
        files.check_safetensors(tmp_path / "model.safetensors")


def test_a_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write((files.MAX_HEADER + 1).to_bytes(8, "little"))
        file.truncate(files.MAX_HEADER + 100)  # sparse
    with pytest.raises(InputError, match="safetensors allows"):
        files.check_safetensors(path)


def test_every_truncation_and_every_changed_header_byte_is_an_input_error_or_still_valid(tmp_path: Path) -> None:
    whole = pack({k: entry(*v) for k, v in FINE.items()}, bytes(24))
    path = tmp_path / "a"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            files.check_safetensors(path)
    accepted = 0
    for at in range(len(whole) - 24):
        for value in (0, 32, 34, 57, 125, 255):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                files.check_safetensors(path)
                accepted += 1
            except InputError:
                pass
    assert 0 < accepted < 120  # a letter of a name, a space for a space

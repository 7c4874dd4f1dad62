"""The cache folder: made once by many, and no failure when it cannot be used."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genkit import cache
from genkit.errors import InputError

MAKE = """
import os, sys, time
from pathlib import Path
from genkit import cache
def make(path):
    with open(sys.argv[1], "a") as log: log.write("made\\n")
    with open(path, "wb") as file:
        file.write(b"x" * 1000)
        file.flush()
        time.sleep(float(sys.argv[2]))
        file.write(b"y" * 1000)
print(len(cache.made_once("things/a", make).read_bytes()))
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(log: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKE, log, str(pause)], stdout=subprocess.PIPE, text=True)


def test_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    assert cache.folder() == own
    monkeypatch.delenv("GENKIT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.folder() == Path("/x/genkit")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache.folder() == Path("/h/.cache/genkit")


def test_twenty_processes_make_it_once(tmp_path: Path, own: Path) -> None:
    log = tmp_path / "log"
    running = [start(log, 0.3) for _ in range(20)]
    assert {process.communicate()[0] for process in running} == {"2000\n"}
    assert log.read_text() == "made\n"
    assert sorted(p.name for p in (own / "things").iterdir() if not p.name.endswith(".lock")) == ["a"]


def test_a_kill_while_it_is_made_leaves_nothing_half(tmp_path: Path, own: Path) -> None:
    log = tmp_path / "log"
    process = start(log, 60)
    while not log.exists() or not list((own / "things").glob(".genkit-*.tmp")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (own / "things" / "a").exists()
    leftover = next((own / "things").glob(".genkit-*.tmp"))
    os.utime(leftover, (1, 1))
    assert start(log).communicate()[0] == "2000\n"
    assert not leftover.exists()


def test_what_nobody_uses_for_a_month_goes_when_something_is_made(own: Path) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"z")

    old, used = cache.made_once("things/old", make), cache.made_once("things/used", make)
    for path in (old, used):
        os.utime(path, (1, 1))
    assert cache.made_once("things/used", make) == used
    cache.made_once("things/new", make)
    assert sorted(path.name for path in old.parent.iterdir() if path.suffix != ".lock") == ["new", "used"]
    assert cache.made_once("things/old", make).is_file()


@pytest.mark.parametrize("obstacle", ["file", "full"])
def test_without_a_cache_a_temporary_file_serves(obstacle: str, own: Path) -> None:
    """A home that is a file stops root too, which may write anywhere."""
    if obstacle == "file":
        own.write_text("in the way")
    else:
        own.mkdir()
        (own / "things").write_text("in the way")
    made = cache.made_once("things/a", lambda path: path.write_bytes(b"z") and None)
    assert made.read_bytes() == b"z"
    assert own not in made.parents


def test_a_temporary_file_is_gone_when_the_process_ends(own: Path) -> None:
    own.write_text("in the way")
    program = "from genkit import cache; print(cache.made_once('a', lambda p: p.write_bytes(b'z') and None))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert not Path(done.stdout.strip()).exists()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    program = MAKE.replace("print(", "from genkit.errors import OutputError\ntry:\n    print(")
    program += "except OutputError as error:\n    print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", program, os.devnull, "0"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    assert done.stdout.startswith("cannot write")
    assert "GENKIT_CACHE" in done.stdout
    assert done.stderr == ""


def test_hashes_are_remembered_but_never_wrong(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))  # so that the next writing has another time, however soon it comes
    one = hashlib.sha256(b"one").hexdigest()
    assert cache.content_hash(file) == one
    assert not (own / "hashes").exists()  # just written: another change might leave the same times
    monkeypatch.setattr(cache, "_SETTLED", -(10**12))
    assert cache.content_hash(file) == one
    (memo,) = (own / "hashes").iterdir()
    memo.write_text("0" * 64)
    assert cache.content_hash(file) == "0" * 64  # it is believed
    memo.write_text("nonsense")
    assert cache.content_hash(file) == one
    file.write_bytes(b"two")
    assert cache.content_hash(file) == hashlib.sha256(b"two").hexdigest()
    with pytest.raises(InputError):
        cache.content_hash(tmp_path / "missing")

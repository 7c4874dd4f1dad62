"""`genkit train-gan` and `train-text` from the shell: what they print, refuse and leave behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
GAN = ["train-gan", "--data", "photos", "--size", "32", "--ngf", "4", "--ndf", "4", "--nz", "8", "--batch-size", "4"]
TEXT = ["train-text", "--data", "book.txt", "--n-layer", "1", "--n-embd", "32", "--n-head", "2", "--block-size", "32"]
TEXT += ["--batch-size", "4", "--tokenizer", "char"]
CORPUS = "The cat sat on the mat. The dog ran to the cat. A bird sang in the tree.\n" * 200


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with `photos/` of eight images and `book.txt`."""
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "book.txt").write_text(CORPUS)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("train", "sample", "hint"),
    [
        (GAN, ["image", "-m", "run", "--n", "4", "--out", "g.png"], "genkit image -m run"),
        (TEXT, ["text", "-m", "run", "The", "--max-new-tokens", "5"], "genkit text -m run"),
    ],
    ids=["gan", "text"],
)
def test_train_then_sample(genkit: Run, data: Path, train: list[str], sample: list[str], hint: str) -> None:
    done = genkit(*train, "--steps", "3", "--out", "run")
    assert (done.code, done.text) == (0, "run\n")
    assert hint in done.err.splitlines()[-1]
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    assert {"config.json", "model.safetensors", "genkit.json", "metrics.jsonl", "checkpoints"} <= names(data / "run")
    assert genkit(*sample).code == 0
    described = json.loads(genkit("info", "run", "--json").out)
    assert described["trained"]["steps"] == 3


def test_a_run_that_ended_within_its_first_save_says_how_to_go_on(genkit: Run, data: Path) -> None:
    done = genkit(*TEXT, "--steps", "1", "--out", "run")
    assert "\ntrained 1 step on " in done.err
    (data / "run/genkit.json").unlink()  # which is written last
    refused = genkit("train-text", "--resume", "--out", "run")
    assert (refused.code, refused.err) == (3, "error: run ended before it had saved (start it anew with --force)\n")
    assert genkit(*TEXT, "--steps", "1", "--out", "run", "--force").code == 0


@pytest.mark.parametrize("train", [GAN, TEXT], ids=["gan", "text"])
def test_dry_run_writes_nothing(genkit: Run, data: Path, train: list[str]) -> None:
    before = names(data)
    done = genkit(*train, "--steps", "30", "--dry-run", "--out", "run")
    assert done.code == 0
    assert "\nsteps: 30\n" in done.text
    assert "\nconfig.batch_size: 4\n" in done.text
    plan = json.loads(genkit(*train, "--steps", "30", "--dry-run", "--json").out)
    assert plan["config"]["batch_size"] == 4
    assert plan["eta_seconds"] >= 0
    assert names(data) == before


@pytest.mark.parametrize("train", [GAN, TEXT], ids=["gan", "text"])
def test_run_directories_are_never_overwritten(genkit: Run, data: Path, train: list[str]) -> None:
    assert genkit(*train, "--steps", "2", "--out", "run", "-q", "--precision", "fp32").err == ""
    weights = (data / "run/model.safetensors").read_bytes()
    refused = genkit(*train, "--steps", "2", "--out", "run")
    assert refused.code == 2
    assert "--resume" in refused.err
    assert "--force" in refused.err
    assert (data / "run/model.safetensors").read_bytes() == weights
    both = genkit(*train, "--resume", "--force", "--out", "run")
    assert (both.code, both.err.count("\n")) == (2, 1)
    # the run's own settings come back, and only the number of steps is new
    resumed = genkit(train[0], "--resume", "--out", "run", "--steps", "4", "--json")
    assert resumed.code == 0
    assert json.loads(resumed.out)["steps"] == 4
    changed = genkit(train[0], "--resume", "--out", "run", "--steps", "6", "--lr", "0.5")
    assert changed.code == 2
    assert "--lr was " in changed.err
    other = genkit(train[0], "--resume", "--out", "run", "--steps", "6", "--precision", "bf16")
    assert other.code == 2
    assert "this run began in " in other.err
    assert genkit(*train, "--steps", "2", "--out", "run", "--force", "--seed", "9").code == 0
    assert (data / "run/model.safetensors").read_bytes() != weights


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["train-gan"], 2, "--data is missing"),
        (["train-text", "--out", "new"], 2, "--data is missing"),
        (["train-gan", "--data", "none"], 3, "none"),
        (["train-text", "--data", "none.txt"], 3, "none.txt"),
        (["train-gan", "--data", "empty"], 3, "empty"),
        (["train-gan", "--data", "texts"], 3, "texts"),
        (["train-gan", "--data", "single"], 3, "image"),
        (["train-text", "--data", "empty"], 3, "empty"),
        (["train-text", "--data", "latin1.txt"], 3, "latin1.txt"),
        (["train-text", "--data", "short.txt", "--block-size", "64"], 3, "block"),
        (["train-gan", "--data", "photos", "--size", "33"], 2, "--size 33 is not one of"),
        (["train-gan", "--data", "photos", "--steps", "1", "--budget", "1m"], 2, "--budget"),
        (["train-text", "--data", "book.txt", "--steps", "1", "--tokens", "5k"], 2, "--steps"),
        (["train-text", "--data", "book.txt", "--budget", "soon"], 2, "'soon' is not a duration"),
        (["train-text", "--data", "book.txt", "--batch-size", "5", "--accumulate", "2"], 2, "--accumulate 2"),
        (["train-text", "--resume", "--out", "nowhere"], 3, "nowhere is no run that can be resumed"),
        (["train-gan", "--data", "photos", "--device", "cuda:99"], 5, "cuda:99"),
        (["train-gan", "--data", "photos", "--out", "book.txt"], 4, "book.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refusals(genkit: Run, data: Path, args: list[str], code: int, message: str) -> None:
    (data / "empty").mkdir()
    (data / "texts").mkdir()
    (data / "texts/a.txt").write_text("no image")
    (data / "single").mkdir()
    (data / "single/0.png").write_bytes((data / "photos/0.png").read_bytes())
    (data / "latin1.txt").write_bytes("café\n".encode("latin-1") * 500)
    (data / "short.txt").write_text("too short")
    before = names(data)
    done = genkit(*args, *([] if "--steps" in args or "--budget" in args or "--resume" in args else ["--steps", "1"]))
    assert (done.code, done.out) == (code, b"")
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert names(data) == before


@pytest.mark.parametrize("command", [GAN, TEXT], ids=["gan", "text"])
def test_a_dry_run_on_several_processes_is_refused(
    genkit: Run, data: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    before = names(data)
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = genkit(*command, "--dry-run", "--steps", "1", "--out", "run")
    assert done.code == 2
    assert "--dry-run does not run on several processes (run it without torchrun)" in done.err
    assert names(data) == before


def test_resuming_what_cannot_be_resumed(genkit: Run, data: Path) -> None:
    (data / "run").mkdir()
    record = data / "run/genkit.json"
    for contents in ({}, {"kind": "text"}, {"kind": "text", "config": "none"}):
        record.write_text(json.dumps(contents))
        done = genkit("train-text", "--resume", "--out", "run")
        assert (done.code, done.out) == (3, b"")
        assert "run/genkit.json has no settings to resume with" in done.err
    for kind, wrong, right in (("text", "train-gan", "train-text"), ("image", "train-text", "train-gan")):
        record.write_text(json.dumps({"kind": kind, "config": {"preset": "tiny"}}))
        done = genkit(wrong, "--resume", "--out", "run")
        assert (done.code, done.err) == (3, f"error: run is a run of {right} (use genkit {right} --resume --out run)\n")


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Until the loop has written a line of metrics, which is after its first save."""
    while process.poll() is None:
        if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def test_stopped_training_is_saved_and_resumed(genkit: Run, start_genkit: Run, data: Path) -> None:
    process = start_genkit(*GAN, "--steps", "100000", "--out", "run")
    wait_for_checkpoint(process, data / "run")
    busy = genkit("train-gan", "--resume", "--out", "run")
    assert (busy.code, busy.err.count("\n")) == (8, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("error: stopped by SIGINT")
    assert "genkit train-gan --resume --out run" in last
    done = json.loads((data / "run/genkit.json").read_text())["trained"]["steps"]
    resumed = genkit("train-gan", "--resume", "--out", "run", "--steps", str(done + 2), "--json")
    assert resumed.code == 0
    assert json.loads(resumed.out)["steps"] == done + 2


def test_reader_of_stderr_that_leaves(start_genkit: Run, data: Path) -> None:
    """`genkit train-gan ... 2>&1 | head -1`: the run is finished, and only its last word finds no reader."""
    process = start_genkit(*GAN, "--steps", "12", "--out", "run", stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 141
    assert json.loads((data / "run/genkit.json").read_text())["trained"]["steps"] == 12


@pytest.mark.parametrize("train", [GAN, TEXT], ids=["gan", "text"])
def test_a_run_inside_its_own_data_is_no_data(genkit: Run, data: Path, train: list[str]) -> None:
    here = [*train[:1], "--data", ".", *train[3:], "--out", "run"]
    assert genkit(*here, "--steps", "2").code == 0
    assert genkit(train[0], "--resume", "--out", "run", "--steps", "3").code == 0


def test_progress_lines_off_a_terminal(genkit: Run, data: Path) -> None:
    err = genkit(*GAN, "--steps", "3", "--out", "run").err
    assert re.search(r"^100%  step 3  12 images, .*/s  0:00:\d\d left  d_loss .*\d$", err, re.MULTILINE)


def test_bar_on_a_terminal(data: Path, tiny_image: Path) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "genkit", *GAN, "--steps", "3", "--out", "run"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, cwd=data,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(controller, 65536):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(controller)
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, b"run\n")
    assert b"100%" in shown
    assert b"step 3" in shown
    assert b"\x1b[3" not in shown  # colours


def test_quiet_says_nothing(genkit: Run, data: Path) -> None:
    done = genkit(*GAN, "--steps", "1", "--out", "run", "-q")
    assert (done.text, done.err) == ("run\n", "")


def test_config_file_trains(genkit: Run, data: Path) -> None:
    (data / "run.toml").write_text(
        '[train-gan]\ndata = "photos"\nsize = 32\nngf = 4\nndf = 4\nnz = 8\nbatch_size = 4\nsteps = 1\nout = "cats"\n'
    )
    assert genkit("train-gan", "--config", "run.toml").text == "cats\n"
    assert json.loads((data / "cats/genkit.json").read_text())["config"]["ngf"] == 4


def test_bad_images_are_skipped_and_told(genkit: Run, data: Path) -> None:
    (data / "photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = genkit(*GAN, "--steps", "1", "--out", "run")
    assert done.code == 0
    assert "broken.png" in done.err
    failed = genkit(*GAN, "--steps", "1", "--on-bad-image", "fail", "--out", "other")
    assert (failed.code, failed.out) == (3, b"")
    assert "broken.png" in failed.err

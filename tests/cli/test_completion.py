"""Completion: what is offered, and that bash, zsh and fish offer it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit.cli import COMMANDS

Run = Callable[..., Any]


@pytest.fixture
def complete(genkit: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[tuple[str, str]]]:
    """(type, value) of what is offered for the last word of a line, as bash asks for it."""

    def ask(line: str) -> list[tuple[str, str]]:
        words = line.split(" ")
        monkeypatch.setenv("_GENKIT_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "\n".join(words) if "\n" in line else line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        done = genkit()
        assert (done.code, done.err) == (0, "")
        return [(kind, value) for kind, _, value in (item.partition(",") for item in done.text.splitlines()) if kind]

    return ask


def test_commands(complete: Run) -> None:
    assert [value for _, value in complete("genkit ")] == list(COMMANDS)
    assert complete("genkit tr") == [("plain", name) for name in ("train-text", "train-gan", "train-classifier")]
    assert complete("genkit --ver") == [("plain", "--version")]


def test_flags(complete: Run) -> None:
    assert complete("genkit text --max") == [("plain", "--max-new-tokens")]
    assert ("plain", "--no-clobber") in complete("genkit image --no")
    assert len(complete("genkit train-text --")) > 30


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("genkit text --format ", ["text", "json", "jsonl"]),
        ("genkit text --format js", ["json", "jsonl"]),
        ("genkit text --format=js", ["json", "jsonl"]),
        ("genkit text --device c", ["cpu", "cuda"]),
        ("genkit train-text --arch q", ["qwen3"]),
        ("genkit train-gan --size ", ["32", "64", "128", "256"]),
        ("genkit text --color n", ["never"]),
        ("genkit export story --to ", ["gguf", "onnx", "hf"]),
        ("genkit export story --precision b", ["bf16"]),
        ("genkit completion z", ["zsh"]),
    ],
)
def test_choices(complete: Run, line: str, values: list[str]) -> None:
    assert complete(line) == [("plain", value) for value in values]


def test_classes_are_those_of_the_model(complete: Run, tiny_classes: Path) -> None:
    line = f"genkit image -m {tiny_classes} --class "
    assert complete(line) == [("plain", "apple"), ("plain", "cherry"), ("plain", "pear")]
    assert complete(line + "apple,p") == [("plain", "apple,pear")]
    assert complete("genkit image --class ") == []  # kittens have none


def test_models_are_the_bundled_ones_and_the_runs(complete: Run, tmp_path: Path) -> None:
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/config.json").write_text("{}")
    (tmp_path / "runs/not-yet").mkdir()
    known = [("plain", name) for name in ("fruits", "kittens", "story", "runs/mine")]
    for line in (
        "genkit text -m ",
        "genkit eval ",
        "genkit info ",
        "genkit explain ",
        "genkit chat -m ",
        "genkit fill -m ",
        "genkit classify -m ",
        "genkit train-classifier --init-from ",
        "genkit export ",
        "genkit train-text --init-from ",
    ):
        assert complete(line) == known, line
    assert complete("genkit image --model=k") == [("plain", "kittens")]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("genkit text --output st", "file"),
        ("genkit text --config co", "file"),
        ("genkit info gr", "file"),
        ("genkit text -m ./", "file"),
        ("genkit export story --out x", "file"),
        ("genkit train-text --data bo", "file"),
        ("genkit eval story --data bo", "file"),
        ("genkit train-text --out ru", "dir"),
    ],
)
def test_files_are_left_to_the_shell(complete: Run, line: str, kind: str) -> None:
    assert complete(line) == [(kind, re.split("[ =]", line)[-1])]


@pytest.mark.parametrize(
    "line",
    ["genkit text ", "genkit text --seed ", "genkit text --stop ", "genkit nonsense ", "genkit text --nonsense ",
     "genkit text --top-p 7 --seed ", "genkit text --config nowhere --see"],
)  # fmt: skip
def test_nothing_to_offer_is_silent(complete: Run, line: str) -> None:
    assert [found for found in complete(line) if found != ("plain", "--seed")] == []


def test_answering_imports_nothing_heavy(tmp_path: Path) -> None:
    program = "import sys; from genkit.cli import entry; entry(); print(*{m.split('.')[0] for m in sys.modules})"
    for line in ("genkit text -m ", "genkit train-gan --", "genkit "):
        asked = {"_GENKIT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        env = os.environ | asked | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True)
        heavy = {"numpy", "torch", "PIL", "rich", "tokenizers", "huggingface_hub", "onnxruntime", "xllamacpp"}
        assert not heavy & set(done.stdout.splitlines()[-1].split())
        assert len(done.stdout.splitlines()) > 1


def test_the_scripts(genkit: Run) -> None:
    for shell, word in (("bash", "complete -o nosort"), ("zsh", "#compdef genkit"), ("fish", "complete --no-files")):
        done = genkit("completion", shell)
        assert (done.code, done.err) == (0, "")
        assert word in done.text
        assert json.loads(genkit("completion", shell, "--json").out) == {"shell": shell, "script": done.text}
    done = genkit("completion", "tcsh")
    assert (done.code, done.out) == (2, b"")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.err


# The shells themselves.


@pytest.fixture
def home(tmp_path: Path, genkit: Run) -> dict[str, str]:
    """An environment with this genkit on PATH, and the scripts beside it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/genkit").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m genkit "$@"\n')
    (tmp_path / "bin/genkit").chmod(0o755)
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / f"script.{shell}").write_bytes(genkit("completion", shell).out)
    (tmp_path / "tale-of-mine.txt").write_text("")
    root = str(Path(__file__).parents[2])
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": root,
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }


def need(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not here")
    return path


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("genkit tr", ["train-text", "train-gan", "train-classifier"]),
        ("genkit text --max-n", ["--max-new-tokens"]),
        ("genkit text -m st", ["story"]),
        ("genkit text --device=cu", ["cuda"]),
        ("genkit export story --to ", ["gguf", "onnx", "hf"]),
    ],
)
def test_bash(home: dict[str, str], tmp_path: Path, line: str, found: list[str]) -> None:
    """The words that readline would show: COMPREPLY after the function that `complete` names."""
    words = re.findall(r"=|[^ =]+", line) + [""] * line.endswith(" ")
    program = f"""
        source script.bash
        [[ $(complete -p genkit) == *"-F _genkit_completion genkit" ]] || exit 9
        compopt() {{ :; }}
        COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}
        _genkit_completion genkit
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [need("bash"), "--norc", "-c", program, "bash", *words], env=home, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("genkit tr", ["train-text", "train-gan", "train-classifier"]),
        ("genkit text --max-n", ["--max-new-tokens"]),
        ("genkit text -m st", ["story"]),
        ("genkit text --output tal", ["tale-of-mine.txt"]),
        ("genkit export story --to ", ["gguf", "hf", "onnx"]),
    ],
)
def test_fish(home: dict[str, str], tmp_path: Path, line: str, found: list[str]) -> None:
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", f"source script.fish; complete --do-complete '{line}'"],
        env=home, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(row.split("\t")[0] for row in done.stdout.splitlines()) == sorted(found)


class Typed:
    """A shell on a terminal of its own, for what only a line editor shows."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path) -> None:
        leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            command, env=env, cwd=folder, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
        )
        os.close(follower)
        self.leader, self.seen = leader, ""

    def wait_for(self, text: str, patience: float = 30) -> None:
        end = time.monotonic() + patience
        while text not in self.seen:
            if not select.select([self.leader], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.leader, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.leader, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.leader)


@pytest.mark.parametrize(
    ("shell", "start"),
    [
        (["bash", "--norc", "--noprofile", "-i"], "PS1='%re''ady% '; source script.bash"),
        (["zsh", "-f", "-i"], "PS1='%%re''ady%% '; autoload -U compinit; compinit -u -D; source script.zsh"),
    ],
    ids=["bash", "zsh"],
)
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("genkit text --max-n\t", "genkit text --max-new-tokens "),
        ("genkit text -m sto\t", "genkit text -m story "),
        ("genkit info tal\t", "genkit info tale-of-mine.txt "),
    ],
)
def test_at_a_prompt(
    home: dict[str, str], tmp_path: Path, shell: list[str], start: str, typed: str, completed: str
) -> None:
    terminal = Typed([need(shell[0]), *shell[1:]], home, tmp_path)
    try:
        terminal.type(start + "\n")
        terminal.wait_for("%ready% ")
        terminal.type(typed)
        terminal.wait_for(completed.split()[-1].removeprefix(typed.split()[-1]))
        terminal.type("end\x01echo \n")  # ctrl-a: to the beginning of the line
        terminal.wait_for(f"{completed}end\r\n")
    finally:
        terminal.close()

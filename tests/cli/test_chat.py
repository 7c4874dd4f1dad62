"""`genkit chat` and `genkit text --chat`: turns, commands, interrupts and files."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genkit.text.chat import messages_of

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
FEW = ("--max-new-tokens", "5", "--seed", "3")


@pytest.fixture
def model(tiny_text: Path) -> tuple[str, str]:
    return ("-m", str(tiny_text))


@pytest.fixture
def terse(tiny_text: Path, tmp_path: Path) -> tuple[str, str]:
    """The same model with a chat template of few letters, so that several turns fit its context."""
    shutil.copytree(tiny_text, tmp_path / "terse")
    (tmp_path / "terse/chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{{ '\n' }}{% endfor %}")
    return ("-m", "terse")


def test_a_line_is_a_turn(genkit: Run, model: tuple[str, str], tmp_path: Path) -> None:
    done = genkit("chat", *model, *FEW, "--json", "--save", "talk.jsonl", input=b"cat\n\ndog\n")
    first, second = (json.loads(line) for line in done.text.splitlines())
    assert (done.code, "has no chat template" in done.err) == (0, True)
    assert (first["line"], first["question"], first["seed"]) == (1, "cat", 3)
    assert (second["line"], second["question"], second["seed"]) == (3, "dog", 4)
    [kept] = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    said = [answer["answer"].strip() for answer in (first, second)]
    expected = [(q, a) for q, a in zip(("cat", "dog"), said, strict=True) if a]
    assert [turn["content"] for turn in kept["messages"]] == [text for pair in expected for text in pair]
    assert messages_of(kept, "x") == kept["messages"]  # as train-text reads it


def test_the_second_question_sees_the_first(genkit: Run, terse: tuple[str, str]) -> None:
    done = genkit("chat", *terse, *FEW, "--json", input=b"cat\ndog\n")
    first, second = (json.loads(line) for line in done.text.splitlines())
    assert (second["forgotten"], done.err) == (0, "")
    seen = f"cat\n{first['answer'].strip()}\ndog\n"
    found = json.loads(genkit("text", *terse, "--seed", "4", "--max-new-tokens", "5", seen, "--json").out)
    assert found["samples"][0]["text"] == second["answer"]


def test_an_answer_is_that_of_text_chat(genkit: Run, model: tuple[str, str]) -> None:
    talked = json.loads(genkit("chat", *model, *FEW, "--json", "--system", "sat", input=b"cat").out)
    asked = json.loads(genkit("text", *model, *FEW, "--chat", "--system", "sat", "cat", "--json").out)
    assert asked["samples"][0]["text"] == talked["answer"]
    assert asked["messages"] == [{"role": "system", "content": "sat"}, {"role": "user", "content": "cat"}]
    prompt = "### System:\nsat\n\n### User:\ncat\n\n### Assistant:\n"
    plain = json.loads(genkit("text", *model, *FEW, prompt, "--json", "--stop", "\n### User:").out)
    assert plain["samples"][0]["text"] == talked["answer"]
    assert genkit("text", *model, *FEW, "--chat", "--system", "sat", "cat").text.rstrip("\n") == talked["answer"]


def test_messages_in_a_batch(genkit: Run, model: tuple[str, str], tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "sat"}, {"role": "user", "content": "cat"}]
    lines = [
        {"messages": talk, "seed": 3},
        {"prompt": "cat", "seed": 3},
        {"messages": talk[:1]},
        {"messages": talk, "prompt": ""},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = genkit("text", *model, "--max-new-tokens", "5", "--input", "in.jsonl")
    found = [json.loads(line) for line in done.text.splitlines()]
    alone = json.loads(genkit("text", *model, *FEW, "--chat", "--system", "sat", "cat", "--json").out)
    assert found[0]["messages"] == talk
    assert "prompt" not in found[0]
    assert found[0]["samples"][0]["text"] == alone["samples"][0]["text"]
    assert found[1]["prompt"] == "cat"
    assert "last message is the system's" in found[2]["error"]["message"]
    assert "a prompt or messages, not both" in found[3]["error"]["message"]
    every = genkit("text", *model, "--max-new-tokens", "5", "--input", "in.jsonl", "--system", "sat").text.splitlines()
    assert json.loads(every[1])["messages"] == talk
    assert json.loads(every[1])["samples"] == found[0]["samples"]


def test_a_question_that_does_not_fit_is_refused_alone(genkit: Run, model: tuple[str, str]) -> None:
    done = genkit("chat", *model, *FEW, "--json", input=b"a" * 80 + b"\ncat\n")
    first, second = (json.loads(line) for line in done.text.splitlines())
    assert (done.code, first["error"]["exit_code"]) == (7, 3)
    assert "the question takes" in first["error"]["message"]
    assert second["answer"]


def test_a_full_context_is_told(genkit: Run, model: tuple[str, str]) -> None:
    done = genkit("chat", *model, *FEW, "--json", input=b"cat\ndog\ncat\n")
    assert [json.loads(line)["forgotten"] for line in done.text.splitlines()][-1] > 0
    assert "the model no longer sees the first " in done.err


def test_conversations_are_added_to_a_file(genkit: Run, model: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text('{"text": "before"}')
    genkit("chat", *model, *FEW, "--save", "talk.jsonl", input=b"cat\n")
    lines = (tmp_path / "talk.jsonl").read_text().splitlines()
    assert lines[0] == '{"text": "before"}'
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["chat", "-m", "kittens"], 3, "kittens is an image model"),
        (["chat", "--save", "none/x.jsonl", "-m", "{text}"], 4, "none/x.jsonl"),
        (["chat", "--save", "{text}/config.json/x.jsonl", "-m", "{text}"], 4, "config.json/x.jsonl: Not a directory"),
        (
            ["text", "--chat", "<|endoftext|>", "-m", "{text}"],
            3,
            "the user says <|endoftext|>, which is a special token",
        ),
    ],
)
def test_mistakes(genkit: Run, tiny_text: Path, args: list[str], code: int, message: str) -> None:
    done = genkit(*(arg.format(text=tiny_text) for arg in args), input=b"cat\n")
    assert (done.code, message in done.err, done.out) == (code, True, b""), done.err


def test_a_gguf_is_not_talked_to(genkit: Run, tiny_text: Path) -> None:
    genkit("export", str(tiny_text), "--to", "gguf", "--out", "a.gguf")
    done = genkit("chat", "-m", "a.gguf", input=b"cat\n")
    assert (done.code, "a .gguf file is not talked to" in done.err) == (3, True)


class Screen:
    """`genkit chat` on a terminal of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        leader, follower = pty.openpty()
        env = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "genkit", "chat", *args],
            stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        self.leader, self.seen = leader, ""

    def wait_for(self, text: str, patience: float = 60) -> str:
        """What came up to `text`."""
        end = time.monotonic() + patience
        while text not in self.seen:
            if not select.select([self.leader], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.leader, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def interrupt(self, answer: str) -> None:
        """Send SIGINT until it is answered: readline misses one that comes just before it waits."""
        for _ in range(60):
            os.kill(self.process.pid, signal.SIGINT)
            with contextlib.suppress(AssertionError):
                self.wait_for(answer, 1)
                return
        raise AssertionError(f"no {answer!r} in {self.seen!r}")


FIVE = ("--seed", "3", "--max-new-tokens", "5", "--min-new-tokens", "5")


@pytest.fixture
def screen(tiny_text: Path, tmp_path: Path) -> Iterator[Screen]:
    opened = Screen(tmp_path, "-m", str(tiny_text), *FIVE, "--system", "sat")
    yield opened
    opened.process.kill()
    opened.process.wait()
    os.close(opened.leader)


def test_on_a_terminal(screen: Screen, tmp_path: Path) -> None:
    screen.wait_for("> ")
    screen.type("/nonsense\n")
    screen.wait_for("there is no /nonsense")
    screen.wait_for("> ")
    screen.type("/save\n")
    screen.wait_for("where to?")
    screen.wait_for("> ")
    screen.type("cat\n")
    screen.wait_for("cut after 5 tokens")
    screen.wait_for("> ")
    screen.type("/save a.jsonl\n")
    screen.wait_for("saved in a.jsonl")
    screen.type("/system mat\n")
    screen.wait_for("a new conversation, with these instructions")
    screen.wait_for("> ")
    screen.interrupt("Ctrl-D ends")
    screen.type("dog\n")
    screen.wait_for("cut after 5 tokens")
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.process.wait(60) == 0
    talks = [json.loads(line)["messages"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [[turn["content"] for turn in talk][:2] for talk in talks] == [["sat", "cat"], ["mat", "dog"]]


def test_an_interrupt_keeps_the_conversation(
    genkit: Run, terse: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C in the middle of the first answer: its beginning stays, and the next question sees it."""
    from genkit.pipeline.text import TextPipeline

    asked: list[str] = []
    stream = TextPipeline.stream

    def interrupted(self: TextPipeline, prompt: Any, *args: Any, **more: Any) -> Iterator[Any]:
        assert self.tokenizer is not None
        asked.append(self.tokenizer.decode(prompt.ids))
        for number, event in enumerate(stream(self, prompt, *args, **more)):
            if number == 3 and len(asked) == 1:
                raise KeyboardInterrupt
            yield event

    typed = iter(["cat", "dog"])

    def type_(shown: bool) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(TextPipeline, "stream", interrupted)
    monkeypatch.setattr("genkit.cli.chat._typed", type_)
    monkeypatch.setattr("genkit.cli.chat.is_terminal", lambda stream: stream is sys.stdin)
    done = genkit("chat", *terse, *FEW, "--seed", "5", "--save", "talk.jsonl")
    assert (done.code, "(stopped)" in done.err) == (0, True)
    [kept] = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    begun = kept["messages"][1]["content"]
    assert 0 < len(begun.replace("<unk>", "?")) <= 3
    assert asked == ["cat\n", f"cat\n{begun}\ndog\n"]

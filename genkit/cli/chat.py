"""`genkit chat`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from genkit import library
from genkit.cli.chatform import chat_form
from genkit.cli.options import chosen, command, config_options, model_option, option, runtime_options, seed_option
from genkit.cli.sampling import open_model
from genkit.cli.terminal import (
    Terminal,
    error_facts,
    is_terminal,
    one_line,
    printable,
    random_seed,
    say,
    write,
    write_json,
)
from genkit.errors import GenkitError, InputError, PartialError, TerminateSignal, UsageError
from genkit.files import decode_utf8, input_errors, open_regular, output_errors, write_bytes
from genkit.text.config import GenerationConfig

if TYPE_CHECKING:
    from genkit.pipeline import TextPipeline
    from genkit.text.dialogue import Dialogue

EXAMPLES = """
genkit chat
genkit chat -m run --system "You are a pirate."
genkit chat -m hf:Qwen/Qwen3-0.6B --temperature 0.7 --save talk.jsonl
printf 'Hello\\nWho are you?\\n' | genkit chat -m run --json | jq -r .answer
genkit train-text --init-from run --data talk.jsonl --out tuned
"""
_HELP = """\
/system TEXT  begin anew with other instructions; without TEXT with none
/reset        begin anew
/save FILE    write the conversations, a JSON line each
/quit         end, as Ctrl-D does; Ctrl-C stops an answer"""
_OTHERS = ("n", "num_beams", "length_penalty", "early_stopping", "logprobs", "json_schema", "regex", "grammar")


@command("chat", EXAMPLES)
@model_option(library.DEFAULT_TEXT)
@config_options(GenerationConfig, skip=_OTHERS)
@seed_option
@option("--system", section="Chat", metavar="TEXT", help="What the model is told before all else.")
@option(
    "--save",
    section="Chat",
    metavar="FILE.jsonl",
    help="Add the conversations to this file, a JSON line each, as train-text --data reads them.",
)
@runtime_options("text")
@click.pass_context
def chat(
    ctx: click.Context,
    /,
    model: str,
    seed: int | None,
    system: str | None,
    save: str | None,
    device: str,
    precision: str,
    engine: str,
    **_: Any,
) -> None:
    """Talk with a model.

    On a terminal: Ctrl-C stops an answer, which keeps what was said; Ctrl-D ends; /help
    lists the commands. From a pipe every line is a question, and every answer ends with a
    newline. When the conversation grows beyond the model's context its oldest turns are
    left out, which is told; the system's text stays.

    The model's own chat template is used. Answer i is drawn from seed + i.
    """
    terminal: Terminal = ctx.obj
    config, set_by_user = chosen(ctx, GenerationConfig)
    own = {name: getattr(config, name) for name in set_by_user}
    kept = Kept(save)
    live = is_terminal(sys.stdin)
    if live and terminal.json:
        raise UsageError("--json is for questions from a pipe", "leave it out")
    with open_model(terminal, model, "text", device=device, precision=precision, engine=engine) as opened:
        pipeline = cast("TextPipeline", opened)
        from genkit.text.dialogue import Dialogue
        from genkit.text.settings import settle

        settings = settle(own, pipeline.defaults() | {"num_beams": 1})
        form = chat_form(pipeline, terminal, model)
        if seed is None:
            seed = random_seed()
            terminal.note(f"seed {seed}")
        talk = Talk(pipeline, settings, Dialogue(form, pipeline.context, system), seed, terminal, kept)
        if live:
            _converse(talk, terminal)
        else:
            _answer_lines(talk, terminal)


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        finish: "eos", "stop", "length", or "interrupted".
        forgotten: messages that it was no longer shown.
    """

    text: str
    finish: str
    tokens: int
    seed: int
    forgotten: int


class Kept:
    """Conversations that are written down, behind those that the file has already.

    Raises:
        InputError: the file cannot be read.
        OutputError: its folder is not there.
    """

    def __init__(self, path: str | None) -> None:
        self.path: str | None = None
        self._before = b""
        self._ended: list[list[dict[str, str]]] = []
        if path is not None:
            self.move(path)

    def move(self, path: str) -> None:
        """Write to another file from now on.

        Raises:
            InputError: what it has cannot be read.
            OutputError: its folder is not there.
        """
        if path == self.path:
            return
        with output_errors(path), os.scandir(os.path.dirname(os.path.realpath(path))):
            pass  # else a folder that is missing showed after the first answer
        before = b""
        if Path(path).exists():
            with input_errors(path), open_regular(path) as file:
                before = file.read()
        self.path, self._before = path, before + b"\n" * (before[-1:] not in (b"", b"\n"))

    def end(self, messages: list[dict[str, str]]) -> None:
        """This conversation is over."""
        self._ended.append(messages)

    def write(self, messages: list[dict[str, str]]) -> None:
        """Write all conversations that have an answer, `messages` the last. Raise OutputError."""
        if self.path is None:
            return
        said = [talk for talk in (*self._ended, messages) if any(m["role"] == "assistant" for m in talk)]
        lines = "".join(json.dumps({"messages": talk}, ensure_ascii=False) + "\n" for talk in said)
        write_bytes(self.path, self._before + lines.encode())


class Talk:
    """A conversation with an open model."""

    def __init__(
        self,
        pipeline: TextPipeline,
        config: GenerationConfig,
        dialogue: Dialogue,
        seed: int,
        terminal: Terminal,
        kept: Kept,
    ) -> None:
        self._pipeline, self._config, self._seed, self._terminal = pipeline, config, seed, terminal
        self.dialogue, self.kept = dialogue, kept

    def ask(self, question: str, put: Callable[[str], None]) -> Answer:
        """Hand the answer to `put` piece by piece; an interrupt ends it where it is.

        Raises:
            InputError: as `Dialogue.ask`.
        """
        told = self.dialogue.forgotten
        prompt = self.dialogue.ask(question, self._config.max_new_tokens)
        if self.dialogue.forgotten > told:
            count = self.dialogue.forgotten
            self._terminal.note(f"the context is full: the model no longer sees the first {count} messages")
        text, finish, tokens = "", "interrupted", 0
        try:
            for event in self._pipeline.stream(prompt, self._config, seed=self._seed, parallel=1):
                text, tokens, finish = text + event.text, event.tokens, event.finish or finish
                put(event.text)
        except KeyboardInterrupt as error:
            if isinstance(error, TerminateSignal):
                raise
            finish = "interrupted"
        except BaseException:
            self.dialogue.answer("")
            raise
        answer = Answer(text, finish, tokens, self._seed, self.dialogue.forgotten)
        self._seed += 1
        self.dialogue.answer(text)
        self.kept.write(self.dialogue.messages)
        return answer

    def restart(self, system: str | None) -> None:
        """Begin anew; what was said is kept for the file."""
        self.kept.end(self.dialogue.messages)
        self.dialogue.begin(system)


def _answer_lines(talk: Talk, terminal: Terminal) -> None:
    """One turn a line of standard input.

    Raises:
        PartialError: some questions could not be asked.
    """
    refused = asked = 0
    for number, question in _lines():
        asked += 1
        facts: dict[str, Any] = {"line": number, "question": question}
        try:
            answer = talk.ask(question, (lambda piece: None) if terminal.json else write)
        except InputError as error:
            refused += 1
            if terminal.json:
                write_json(facts | {"error": error_facts(error)})
            else:
                terminal.note(f"line {number}: {one_line(str(error))}")
                write("\n")
            continue
        if answer.finish == "interrupted":
            raise KeyboardInterrupt
        if terminal.json:
            said = {"answer": answer.text, "finish": answer.finish, "tokens": answer.tokens}
            write_json(facts | said | {"seed": answer.seed, "forgotten": answer.forgotten})
        elif not answer.text.endswith("\n"):
            write("\n")
    if refused:
        raise PartialError(f"{refused:,} of {asked:,} questions were refused", "the others are answered")


def _lines() -> Iterator[tuple[int, str]]:
    """Questions on standard input, as soon as each is there; blank lines are none."""
    if sys.stdin is None:
        raise InputError("standard input is closed", "pipe questions in, a line each")
    for number, line in enumerate(iter(sys.stdin.buffer.readline, b""), 1):
        question = decode_utf8(line, f"standard input, line {number}").strip()
        if question:
            yield number, question


def _converse(talk: Talk, terminal: Terminal) -> None:
    """Questions from somebody at a terminal."""
    shown = is_terminal(sys.stdout)
    if shown:
        import readline  # noqa: F401  # input() then has a history and keys that move
    terminal.note("Ctrl-C stops an answer, Ctrl-D ends, /help lists the commands")
    while True:
        try:
            question = _typed(shown).strip()
        except EOFError:
            say("")
            return
        except KeyboardInterrupt as error:
            if isinstance(error, TerminateSignal):
                raise
            say("\nCtrl-D ends")
            continue
        except UnicodeDecodeError:
            say("that is not UTF-8: set the terminal's encoding")
            continue
        try:
            if question.startswith("/"):
                if not _obey(question, talk):
                    return
            elif question:
                _show(talk, question, shown)
        except GenkitError as error:  # the conversation goes on
            say(one_line(str(error)), bold="error:", color=terminal.colored(sys.stderr))


def _typed(shown: bool) -> str:
    """A line that somebody types; the sign before it goes where they look."""
    if shown:
        return input("> ")
    sys.stderr.write("> ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _show(talk: Talk, question: str, shown: bool) -> None:
    """Ask, and write the answer as it comes."""
    answer = talk.ask(question, lambda piece: write(printable(piece) if shown else piece))
    write("" if answer.text.endswith("\n") else "\n")
    if answer.finish == "interrupted":
        say("(stopped)")
    elif answer.finish == "length":
        say(f"(cut after {answer.tokens} tokens: --max-new-tokens)")


def _obey(line: str, talk: Talk) -> bool:
    """Do what a /command says; False when it ends the conversation.

    Raises:
        UsageError: no such command, or nothing to save to.
        OutputError: the file cannot be written.
    """
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/quit":
        return False
    if name == "/help":
        say(_HELP)
    elif name == "/reset":
        talk.restart(talk.dialogue.system)
        say("a new conversation")
    elif name == "/system":
        talk.restart(rest or None)
        say("a new conversation, with these instructions" if rest else "a new conversation, without instructions")
    elif name == "/save":
        if rest:
            talk.kept.move(rest)
        if talk.kept.path is None:
            raise UsageError("/save: where to?", "write /save FILE.jsonl")
        talk.kept.write(talk.dialogue.messages)
        say(f"saved in {talk.kept.path}, and so is what follows")
    else:
        raise UsageError(f"there is no {name}", "/help lists the commands")
    return True

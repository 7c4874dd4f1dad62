"""The command line: a table of commands, imported one at a time.

`genkit --help` is printed from the table alone; a command's module, and with it
its config class, is imported when that command is named.
"""

from __future__ import annotations

import time

STARTED = time.monotonic()  # a training budget counts from here, imports included

import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from importlib import import_module  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import click  # noqa: E402

from genkit import __version__  # noqa: E402
from genkit.cli.boundary import guarded  # noqa: E402
from genkit.cli.terminal import Terminal  # noqa: E402
from genkit.config import suggest  # noqa: E402
from genkit.errors import UsageError  # noqa: E402


class Entry(NamedTuple):
    """Where a command lives, and its line in `genkit --help`."""

    section: str
    module: str
    help: str


COMMANDS = {
    "text": Entry("Generate", "text", "Continue a prompt."),
    "chat": Entry("Generate", "chat", "Talk with a model."),
    "image": Entry("Generate", "image", "Draw images."),
    "fill": Entry("Generate", "fill", "Fill the gaps of a text."),
    "classify": Entry("Generate", "classify", "Name the class of a text."),
    "train-text": Entry("Train", "train_text", "Train a GPT on text files."),
    "train-gan": Entry("Train", "image", "Train a GAN on a folder of images."),
    "train-classifier": Entry("Train", "train_classifier", "Teach a language model to name the class of a text."),
    "eval": Entry("Models", "evaluate", "Measure a model on data that it has not seen."),
    "explain": Entry("Models", "explain", "Look inside a model: probabilities, attention, attribution, directions."),
    "score": Entry("Models", "score", "Compare texts with references: BLEU, chrF, ROUGE, METEOR."),
    "audit": Entry("Models", "audit", "Measure what a text model says of different groups."),
    "info": Entry("Models", "info", "Say what a model, or what genkit made, is."),
    "models": Entry("Models", "models", "List the models there are."),
    "compress": Entry("Models", "compress", "Quantise, prune or distil a model."),
    "export": Entry("Models", "export", "Write a model as gguf, onnx or a Hugging Face folder."),
    "doctor": Entry("This machine", "doctor", "Say what works here, and how to mend what does not."),
    "completion": Entry("This machine", "completion", "Print the completion script of a shell."),
}

EXAMPLES = """\
Examples:
  genkit text "Once upon a time"
  genkit image --n 16 --out grid.png
  genkit train-text --data book.txt --budget 10m --out run
  genkit train-gan --data photos/ --budget 2h --out run

Exit codes:
  0 success    1 internal error    2 usage    3 input refused    4 cannot write
  5 resources  6 training stopped  7 partly done  8 run directory in use
  130 interrupted  141 reader closed the pipe  143 terminated
"""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"genkit.cli.{COMMANDS[name].module}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise UsageError(f"no such command {args[0]!r}", suggest(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=e.help) for name, e in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, e.help) for name, e in COMMANDS.items() if e.section == section])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\n" + EXAMPLES)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "GENKIT"},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="genkit", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Generate text and images from the shell, and train the models that do it.

    Results go to standard output, everything else to standard error.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def entry(args: Sequence[str] | None = None) -> int:
    """Run one command line; the process's exit code. Nothing is raised."""
    args = list(sys.argv[1:] if args is None else args)
    flags = args[: args.index("--")] if "--" in args else args
    follows = args[:1] in (["train-text"], ["train-gan"]) and os.environ.get("RANK", "0") not in ("", "0")
    terminal = Terminal(json="--json" in flags, debug="--debug" in flags, quiet=follows, follows=follows)

    def run() -> None:
        if asked := os.environ.get("_GENKIT_COMPLETE"):
            from genkit.cli.completion import answer

            return answer(main, asked)
        with main.make_context("genkit", args, obj=terminal) as ctx:
            main.invoke(ctx)

    return guarded(run, terminal)

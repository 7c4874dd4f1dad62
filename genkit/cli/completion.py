"""`genkit completion`, and the answers that the scripts it prints ask for.

The scripts are Click's. They call `genkit` with `_GENKIT_COMPLETE` set at every
press of the tab key, so what answers imports neither numpy nor torch.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from genkit import library
from genkit.cli.options import command
from genkit.cli.terminal import Terminal, write
from genkit.errors import GenkitError
from genkit.files import read_json
from genkit.image.modelconfig import read_model_config

if TYPE_CHECKING:
    Items = list[CompletionItem[str]]

VARIABLE = "_GENKIT_COMPLETE"
_FILES = {"FILE", "PATH", "ZIP"}
_FOLDERS = {"FOLDER", "DIR", "RUN"}

EXAMPLES = """
genkit completion bash | tee ~/.local/share/bash-completion/completions/genkit
genkit completion zsh | tee "${fpath[1]}/_genkit"
genkit completion fish | source
"""


class Bash(BashComplete):
    """Bash hands `--option=value` over as three words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        return [arg for arg in args if arg != "="], "" if incomplete == "=" else incomplete


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}


def by_metavar(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The values that the words of `param`'s metavar stand for, e.g. `MODEL|FILE` or `auto|cpu|cuda[:N]`.

    Files are left to the shell, and offered where no name fits.
    """
    if param.name == "classes":
        return _classes(ctx, incomplete)
    words = (param.metavar or "").replace("[:WEIGHT]", "").split("|")  # a weighted path is a path
    names = [word.partition("[")[0] for word in words if word != word.upper() or word.isdigit()]
    if "MODEL" in words:
        names += _models(incomplete)
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    if found:
        return found
    if not _FILES.isdisjoint(words) or "MODEL" in words:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(incomplete, type="dir")] if not _FOLDERS.isdisjoint(words) else []


def _models(incomplete: str) -> list[str]:
    """Names of models; those of the hub only once they are asked for."""
    return [name for name in library.known() if incomplete.startswith("hf:") or not name.startswith("hf:")]


def _classes(ctx: click.Context, incomplete: str) -> Items:
    """The classes of the model that the line names, behind those that are typed already."""
    before, comma, typed = incomplete.rpartition(",")
    folder = library.find(ctx.params.get("model") or library.DEFAULT_IMAGE)
    names = read_model_config(read_json(folder / library.CONFIG)).classes
    return [CompletionItem(before + comma + name) for name in names if name.startswith(typed)]


@command("completion", EXAMPLES)
@click.argument("shell", metavar="|".join(SHELLS), type=click.Choice([*SHELLS]), shell_complete=by_metavar)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete genkit's commands, options and models."""
    terminal: Terminal = ctx.obj
    script = SHELLS[shell](ctx.find_root().command, {}, "genkit", VARIABLE)
    source = script.source_template % script.source_vars()
    write(json.dumps({"shell": shell, "script": source}) + "\n" if terminal.json else source)


def answer(main: click.Command, instruction: str) -> None:
    """Print the completions of the line that the shell's script describes; none when the line is wrong so far."""
    shell, _, wanted = instruction.partition("_")
    if shell in SHELLS and wanted == "complete":
        with contextlib.suppress(GenkitError):
            write(SHELLS[shell](main, {"obj": Terminal(quiet=True)}, "genkit", VARIABLE).complete() + "\n")

"""The README says what is there: its tree, its commands, its tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from genkit import errors
from genkit.cli import COMMANDS
from genkit.cli import main as group

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
# tables and comments aside, every command line that the README shows
LINES = [
    part.strip()
    for block in BLOCKS
    for line in block.splitlines()
    for part in re.split(r"&&|\||>+", line.split("  #")[0])
    if re.match(r"(\.venv/bin/)?genkit ", part.strip())
]


def test_the_tree_names_every_module_and_no_other() -> None:
    tree = README.split("```\ngenkit/\n", 1)[1].split("```", 1)[0]
    named, folders = set(), {0: ""}  # the folder that lines are in, by how far they are indented
    for line in tree.splitlines():
        depth = len(line) - len(line.lstrip())
        folder = folders[max(d for d in folders if d < depth)]
        folders = {d: name for d, name in folders.items() if d < depth}
        words = re.match(r"((?:[\w/]+(?:\.py|/)\s+)+)", line.strip() + " ")
        for word in words[1].split() if words else []:
            if word.endswith("/"):
                folders[depth] = folder + word
            else:
                named.add(folder + word)
    package = ROOT / "genkit"
    there = {str(p.relative_to(package)) for p in package.rglob("*.py") if not p.name.startswith("__")}
    assert named == there


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    context = click.Context(group, info_name="genkit")
    command = group.get_command(context, words[0])
    assert command is not None, words[0]
    command.make_context(words[0], words[1:], parent=context, resilient_parsing=False)


def test_there_are_two_commands_to_set_up() -> None:
    section = README.split("## Two commands", 1)[1].split("\n## ", 1)[0]
    assert len(re.findall(r"```sh\n", section)) == 2


def test_every_command_is_shown() -> None:
    assert {line.split("genkit ", 1)[1].split()[0] for line in LINES} >= set(COMMANDS) - {"models"}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {int(code) for code in re.findall(r"\| (\d+) \|", README)}
    tree = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.GenkitError)}
    assert codes == tree | {0, errors.EXIT_CLOSED_PIPE}


def test_no_file_is_long() -> None:
    long = {str(p): n for p in (ROOT / "genkit").rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}

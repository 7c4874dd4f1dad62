"""Text whose colour says something of each token. Rich, as in `ui.py`; imported when needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from genkit.cli.terminal import is_terminal, one_line
from genkit.text.explain.colors import ink, signed, web

_DEEP = ("truecolor", "24bit")  # what COLORTERM says of a terminal with all colours
_PLAIN = 0.1  # less than this has no colour
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Cell:
    """A token on a heat line.

    Attributes:
        text: what it reads as.
        shade: from -1, blue, over 0, no colour, to 1, red.
        bar: a character of BARS to stand below it, or "".
    """

    text: str
    shade: float
    bar: str = ""


def style(shade: float) -> str:
    """How Rich writes a token of a shade."""
    if abs(shade) < _PLAIN:
        return ""
    paper = signed(shade)
    return f"{web(ink(paper))} on {web(paper)}"


def heat(cells: Iterable[Cell], legend: Sequence[Cell] = ()) -> str:
    """Cells as lines for a terminal, with a row of bars below each where there are some."""
    width = os.get_terminal_size(sys.stdout.fileno()).columns if is_terminal(sys.stdout) else 0
    width = width or 80  # a terminal that does not know its width says 0
    depth: Literal["truecolor", "256"] = "truecolor" if os.environ.get("COLORTERM") in _DEEP else "256"
    console = Console(file=sys.stdout, force_terminal=True, highlight=False, width=width, color_system=depth)
    with console.capture() as captured:
        for row in _rows(cells, width):
            console.print(Text.assemble(*((_shown(cell.text), style(cell.shade)) for cell in row)), soft_wrap=True)
            if any(cell.bar for cell in row):
                below = "".join((cell.bar or " ") * cell_len(_shown(cell.text)) for cell in row)
                console.print(Text(below, "cyan"), soft_wrap=True)
        if legend:
            console.print(Text.assemble(*((cell.text, style(cell.shade)) for cell in legend)), soft_wrap=True)
    return captured.get()


def _rows(cells: Iterable[Cell], width: int) -> Iterator[list[Cell]]:
    """Lines of whole words, as far as they fit."""
    row: list[Cell] = []
    used = 0
    for word in _words(cells):
        length = sum(cell_len(_shown(cell.text)) for cell in word)
        if row and used + length > width:
            yield row
            row, used = [], 0
        row += word
        used += length
        if "\n" in word[-1].text:
            yield row
            row, used = [], 0
    if row:
        yield row


def _words(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Cells up to the next that begins with a space, or behind a line break."""
    word: list[Cell] = []
    for cell in cells:
        if word and (cell.text[:1].isspace() or "\n" in word[-1].text):
            yield word
            word = []
        word.append(cell)
    if word:
        yield word


def _shown(text: str) -> str:
    """A token on one line, its blanks visible where they are not plain spaces."""
    return "".join(c if c == " " else _MARKS.get(c) or one_line(c) or "·" for c in text)


_MARKS = {"\n": "⏎", "\t": "→", "\ufffd": "�"}

"""Everything that Rich draws: progress of training, tables, previews, heat lines. Imported when needed."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from genkit.cli import graphics, plot
from genkit.cli.imagefiles import PREVIEWED
from genkit.cli.terminal import Terminal, is_terminal, one_line, printable, say
from genkit.training.curves import curves_of, read_metrics
from genkit.training.log import Loggers, MetricLogger, Progress, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INTERVAL = 10.0  # seconds between two plain lines
WIDE = 120  # columns from which there is room for a bar beside the numbers
_SHARE = 5  # columns of `100%` and the gap behind it
_SHORT = {"tokens": "tok", "images": "img"}
_TELLING = {"loss": 8, "d_loss": 8, "g_loss": 8, "val_loss": 7, "val_bpb": 5}
_CURVES = ("blue", "dark_orange")
_DEEP = ("truecolor", "24bit")  # what COLORTERM says of a terminal with all colours
_PLAIN = 0.1  # less than this has no colour on a heat line
_MARKS = {"\n": "⏎", "\t": "→", "\ufffd": "�"}
BARS = "▁▂▃▄▅▆▇█"


def training_logger(terminal: Terminal, *, preview: bool = False) -> MetricLogger:
    """A bar on a terminal, else a plain line now and then; nothing with `--quiet`.

    Args:
        preview: also show sample pictures, which takes a terminal.
    """
    if terminal.quiet:
        return SilentLogger()
    logger: MetricLogger = PlainLogger()
    if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        logger = BarLogger(_on_stderr(terminal))
    return PreviewLogger(logger, terminal) if preview else logger


class SilentLogger:
    """A MetricLogger that says nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None:
        pass

    def close(self) -> None:
        pass


class PlainLogger(SilentLogger):
    """One line an interval, for files and pipes."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self.interval, self._said = interval, -interval

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        say(f"step {step:,}  {numbers(values)}")

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said >= self.interval or progress.fraction >= 1:
            self._said = now
            say(f"{progress.fraction:4.0%}  {state(progress)}")

    def message(self, text: str) -> None:
        say(printable(text))


class BarLogger(SilentLogger):
    """A progress bar that stays at the foot of the terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar_width = min(40, console.width - WIDE + 10) if console.width >= WIDE else 0
        bar = [BarColumn(bar_width=self._bar_width)] if self._bar_width else []
        share = TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4))
        text = TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True))
        self._bar = Bar(*bar, share, text, console=console, refresh_per_second=4, redirect_stdout=False)
        self._task = self._bar.add_task("", total=1.0, state="", visible=False)
        self._bar.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.message(f"step {step:,}  {numbers(values)}")

    def progress(self, progress: Progress) -> None:
        room = self.console.width - self._bar_width - _SHARE
        self._bar.update(self._task, completed=progress.fraction, state=fitting(progress, room), visible=True)

    def message(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


class PreviewLogger(Loggers):
    """Another logger, and sample pictures on the same terminal."""

    def __init__(self, logger: MetricLogger, terminal: Terminal) -> None:
        super().__init__(logger)
        self._console = logger.console if isinstance(logger, BarLogger) else _on_stderr(terminal)  # above its bar

    def pictures(self, step: int, pixels: NDArray[np.uint8]) -> None:
        from genkit.image.canvas import grid

        chosen = pixels[:: -(-len(pixels) // PREVIEWED)]  # from all over: they may stand by class
        _show(grid(chosen), self._console)


class LineBar:
    """How far a batch is: a bar where its length is known, and a line of numbers."""

    def __init__(self, *, color: bool) -> None:
        self.console = Console(file=sys.stderr, force_terminal=True, no_color=not color)
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
        self._bar = Bar(*columns, console=self.console, refresh_per_second=4, redirect_stdout=False)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def update(self, fraction: float | None, text: str) -> None:
        self._bar.update(self._task, total=fraction and 1.0, completed=fraction or 0.0, description=text)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def state(progress: Progress) -> str:
    """`step 120  1.2M tokens, 12.3k/s  0:04:10 left  loss 2.31`, the dispensable last."""
    p = progress
    done = f"step {p.step:,}  {short(p.seen)} {p.unit}, {short(p.rate)}/s  {_left(p)} left"
    return f"{done}  {numbers(p.values, 3)}".rstrip()


def fitting(progress: Progress, width: int) -> str:
    """The parts of `state` that fit into `width` columns, the least telling left out first."""
    p = progress
    rate = f"{short(p.rate)} {_SHORT.get(p.unit, p.unit)}/s"
    parts = [
        (3, f"step {p.step:,}"),
        (2, f"{short(p.seen)} {p.unit}"),
        (6, rate),
        (9, f"{_left(p)} left"),
        *((_TELLING.get(name, 1), f"{name} {value:.3g}") for name, value in p.values.items()),
    ]
    while len(parts) > 1 and sum(len(text) + 2 for _, text in parts) - 2 > width:
        parts.remove(min(reversed(parts), key=lambda part: part[0]))
    return "  ".join(text for _, text in parts)


def _left(progress: Progress) -> str:
    return clock(progress.eta) if progress.eta < 1e7 else "?"


def numbers(values: Mapping[str, float], digits: int = 4) -> str:
    return "  ".join(f"{name} {value:.{digits}g}" for name, value in values.items())


def clock(seconds: float) -> str:
    """`0:04:10`"""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], color: bool) -> str:
    """A table for a terminal."""
    console = Console(no_color=not color, force_terminal=color, highlight=False)
    drawn = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        drawn.add_row(*row)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


def columns(rows: Sequence[Sequence[str]], left: Container[int]) -> str:
    """Plain lines in columns as wide as a terminal shows them; those in `left` begin alike, the others end alike."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [cell + gap if i in left else gap + cell for i, (cell, gap) in enumerate(zip(row, gaps, strict=True))]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def learning_curves(metrics: Path, terminal: Terminal, stream: TextIO) -> str | None:
    """A plot of a `metrics.jsonl` for `stream`, as well as it can show one; None of fewer than two points.

    Raises:
        InputError: no such file.
    """
    found = curves_of(read_metrics(metrics))
    if found is None or max(len(curve.x) for curve in found.losses) < 2:
        return None
    width, braille = plot.WIDTH, stream is sys.stdout or _has_braille(stream)  # what goes to stdout is UTF-8
    if is_terminal(stream):
        width = max(20, min(width, os.get_terminal_size(stream.fileno()).columns - plot.MARGIN))
        braille = _has_braille(stream)
    lines = plot.plot(found, width=width, braille=braille)
    if not terminal.colored(stream):
        return plot.plain(lines)
    console = Console(file=stream, force_terminal=True, highlight=False)
    with console.capture() as captured:
        for line in lines:
            parts = [(piece.text, "" if piece.curve is None else _CURVES[piece.curve]) for piece in line]
            console.print(Text.assemble(*parts), soft_wrap=True)
    return captured.get()


def _has_braille(stream: TextIO) -> bool:
    """Whether a terminal writes Unicode and has a font for it: the consoles of Linux have none."""
    if os.environ.get("TERM") in ("dumb", "linux", "vt100"):
        return False
    try:
        "⣿┤━".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def preview(pixels: NDArray[np.uint8], terminal: Terminal) -> None:
    """Show a picture (H, W, C) on standard error, as well as the terminal can.

    Real pixels where it has a protocol for them and Chafa is installed, else two
    pixels a character in the colours that it has, else, without colour, letters.
    """
    _show(pixels, _on_stderr(terminal))


def _on_stderr(terminal: Terminal) -> Console:
    return Console(file=sys.stderr, force_terminal=True, no_color=not terminal.colored(sys.stderr), highlight=False)


def _show(pixels: NDArray[np.uint8], console: Console) -> None:
    color = not console.no_color
    width = min(console.width, pixels.shape[1])
    name = graphics.protocol(os.environ) if color else None
    encoded = graphics.encode(pixels, name, console.width) if name else None
    if encoded is not None:
        shown = [Segment(encoded.decode("ascii"))]
    elif color:
        shown = [*half_blocks(graphics.shrink(pixels, width, lines=2))]
    else:
        shown = [Segment(graphics.letters(pixels, width) + "\n")]
    with contextlib.suppress(OSError):  # the images are drawn, whether or not anybody looks
        console.print(Segments(shown), end="", soft_wrap=True)  # not cut: a protocol's bytes are no columns


def half_blocks(pixels: NDArray[np.uint8]) -> Iterator[Segment]:
    """Upper half blocks for RGB pixels (2 N, columns, 3): coloured above, and below by their background."""
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            yield Segment("▀", Style.from_color(Color.from_rgb(*top), Color.from_rgb(*bottom)))
        yield Segment.line()


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


def _style(shade: float) -> str:
    """How Rich writes a token of a shade."""
    from genkit.text.explain.colors import ink, signed, web

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
            console.print(Text.assemble(*((_shown(cell.text), _style(cell.shade)) for cell in row)), soft_wrap=True)
            if any(cell.bar for cell in row):
                below = "".join((cell.bar or " ") * cell_len(_shown(cell.text)) for cell in row)
                console.print(Text(below, "cyan"), soft_wrap=True)
        if legend:
            console.print(Text.assemble(*((cell.text, _style(cell.shade)) for cell in legend)), soft_wrap=True)
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

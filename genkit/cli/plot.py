"""Learning curves in characters: braille, eight dots each, or ASCII. No colours here: `ui.py` puts them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genkit.training.curves import Curve, Curves

WIDTH, HEIGHT, MARGIN = 60, 12, 16  # characters of the plot itself, and beside it
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
_MARKS = "*o"  # of the first curve and the second, where there is no braille


@dataclass(frozen=True)
class Piece:
    """Characters of one colour: that of curve 0 or 1, or None for axes and labels."""

    text: str
    curve: int | None = None


Line = list[Piece]


def plot(curves: Curves, *, width: int = WIDTH, height: int = HEIGHT, braille: bool = True) -> list[Line]:
    """Plots of the losses and of what was measured, line by line: legends, curves between axes, what x counts.

    Args:
        width, height: characters within the axes of the losses; those of a measured quantity are half as high.
    """
    shown = [(curves.losses, height), *(((curve,), (height + 1) // 2) for curve in curves.measures)]
    labels = [_labels(*curves.limits(which), rows) for which, rows in shown]
    margin = max(len(label) for found in labels for label in ("", *found.values()))
    lines: list[Line] = []
    for (which, rows), found in zip(shown, labels, strict=True):
        lines += _axes(curves, which, found, margin, width, rows, braille)
    lines.append([Piece(" " * (margin + 2) + _scale(curves, width))])
    return lines


def _labels(low: float, high: float, rows: int) -> dict[int, str]:
    """Round numbers beside the y axis, by their rows."""
    from genkit.training.curves import tick_label, ticks

    return {_row(value, low, high, rows): tick_label(value) for value in ticks(low, high, max(2, rows // 3))}


def _axes(
    curves: Curves,
    shown: tuple[Curve, ...],
    labels: dict[int, str],
    margin: int,
    width: int,
    height: int,
    braille: bool,
) -> list[Line]:
    """A legend, and some curves between axes."""
    low, high = curves.limits(shown)
    cells: list[list[tuple[int, int | None]]] = [[(0, None)] * width for _ in range(height)]
    for index, curve in enumerate(shown):
        _trace(cells, curve, index, curves.end, low, high, braille)
    lines = _legend(shown, margin, width, braille)
    for row, line in enumerate(cells):
        side = "┤" if row in labels else "│"
        axis = side if braille else "+" if row in labels else "|"
        lines.append([Piece(f"{labels.get(row, ''):>{margin}} {axis}"), *_pieces(line, braille)])
    rule = ("└" + "─" * width) if braille else ("+" + "-" * width)
    lines.append([Piece(" " * (margin + 1) + rule)])
    return lines


def _legend(shown: tuple[Curve, ...], margin: int, width: int, braille: bool) -> list[Line]:
    """The curves' names and last values, on one line where it is wide enough."""
    names: list[Line] = []
    for index, curve in enumerate(shown):
        mark = ("━━" if index == 0 else "╍╍") if braille else _MARKS[index] * 2
        names.append([Piece(mark, index), Piece(f" {curve.label} {curve.line[-1]:.3f}")])
    indent, gap = Piece(" " * (margin + 2)), Piece("   ")
    line = [indent, *(piece for name in names for piece in (*name, gap))][:-1]
    fits = sum(len(piece.text) for piece in line[1:]) <= width
    return [line] if fits else [[indent, *name] for name in names]


def _scale(curves: Curves, width: int) -> str:
    """Round numbers below the x axis, then its unit."""
    from genkit.training.curves import tick_label, ticks

    text = [" "] * width
    for value in ticks(0, curves.end, 6):
        label = tick_label(value)
        at = min(max(0, round(value / curves.end * (width - 1)) - len(label) // 2), width - len(label))
        text[at : at + len(label)] = label
    return "".join(text).rstrip() + f"  {curves.unit}"


def _row(value: float, low: float, high: float, rows: int) -> int:
    return min(rows - 1, max(0, int((high - value) / (high - low) * rows)))


def _trace(
    cells: list[list[tuple[int, int | None]]],
    curve: Curve,
    index: int,
    end: float,
    low: float,
    high: float,
    braille: bool,
) -> None:
    """Draw a curve into `cells` (dots, curve), from its value in each column of dots; the second one dashed."""
    import numpy as np

    across, down = (2, 4) if braille else (1, 1)
    columns, rows = across * len(cells[0]), down * len(cells)
    spots = (np.arange(columns) + 0.5) / columns * end
    values = np.interp(spots, curve.x, curve.line)
    first = min(columns - 1, int(curve.x[0] / end * columns))
    last = min(columns - 1, int(curve.x[-1] / end * columns))
    before: int | None = None
    for column in range(first, last + 1):
        value = float(values[column])
        row = _row(value, low, high, rows)
        outside = value > high
        top, bottom = (row, row) if before is None else (min(row, before), max(row, before))
        before = row
        if outside or (braille and index and column % 6 >= 4):
            continue
        for dot in range(top, bottom + 1):
            cell = cells[dot // down][column // across]
            bit = _DOTS[dot % 4][column % 2] if braille else 1
            cells[dot // down][column // across] = (cell[0] | bit if braille else bit, index)


def _pieces(line: list[tuple[int, int | None]], braille: bool) -> Line:
    """Neighbours of one colour as one piece."""
    pieces: Line = []
    for dots, index in line:
        mark = " " if index is None else chr(0x2800 + dots) if braille else _MARKS[index]
        if pieces and pieces[-1].curve == index:
            pieces[-1] = Piece(pieces[-1].text + mark, index)
        else:
            pieces.append(Piece(mark, index))
    return pieces


def plain(lines: list[Line]) -> str:
    """The plot without colours."""
    return "".join("".join(piece.text for piece in line).rstrip() + "\n" for line in lines)

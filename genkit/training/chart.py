"""Learning curves as a PNG, with Pillow alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genkit.training.curves import Curve, Curves, Points, tick_label, ticks
from genkit.training.pen import FINE, GREY, Pen, png, sheet

WIDTH, HEIGHT = 900, 520
_GRID = "#e6e6e6"
_COLORS = (("#1f6fb5", "#c3d9ee"), ("#d9571c", "#f6d3c2"))  # of a line and of its points; told apart by all eyes
_LEFT, _RIGHT, _TOP, _BOTTOM, _STRIP, _GAP = 64, 24, 76, 48, 52, 18
_PANEL, _TITLE = 96, 34  # of a measured quantity: its height, and the room for its title
_MARK = 3.5  # radius of an evaluation's dot


def draw(curves: Curves, title: str) -> bytes:
    """The curves as a PNG of 900 x 520: losses, below them the learning rate; higher by what was measured.

    Args:
        title: the run's name.
    """
    height = HEIGHT + len(curves.measures) * (_TITLE + _PANEL)
    image = sheet(WIDTH, height)
    pen = Pen(image)
    strip = _STRIP + _GAP if curves.rate else 0
    box = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM - strip)
    _heading(pen, curves, title)
    _panel(pen, box, curves.end, curves.limits(curves.losses), curves.losses, most=7)
    bottom = box[3]
    for curve in curves.measures:
        pen.text(_LEFT, bottom + _TITLE - 22, _said(curve), 13)
        below = (box[0], bottom + _TITLE, box[2], bottom + _TITLE + _PANEL)
        _panel(pen, below, curves.end, curves.limits((curve,)), (curve,), most=3)
        bottom = below[3]
    if curves.rate is not None:
        below = (box[0], bottom + _GAP, box[2], bottom + _GAP + _STRIP)
        _panel(pen, below, curves.end, (-0.04, 1.08), (curves.rate,), most=2, colors=((GREY, GREY),))
    for value in ticks(0, curves.end, 9):
        pen.text(
            _LEFT + value / curves.end * (box[2] - _LEFT), height - _BOTTOM + 7, tick_label(value), 13, anchor="ma"
        )
    pen.text((_LEFT + box[2]) / 2, height - 8, curves.unit, 13, color=GREY, anchor="md")
    return png(image, 128)


def _heading(pen: Pen, curves: Curves, title: str) -> None:
    """The title, how far the run is, and a legend with the last values."""
    seen = "" if curves.unit == "steps" else f"{tick_label(float(f'{curves.end:.3g}'))} {curves.unit}, "
    pen.text(_LEFT, 14, title, 19)
    pen.text(WIDTH - _RIGHT, 18, f"{seen}{curves.steps:,} steps", 13, color=GREY, anchor="ra")
    x = float(_LEFT)
    for curve, (color, _) in zip(curves.losses, _COLORS, strict=False):
        pen.line([(x, 55), (x + 22, 55)], color, 2.5)
        if curve.dotted:
            pen.dot(x + 11, 55, _MARK, color)
        x += 29 + pen.text(x + 29, 48, _said(curve), 13) + 26
    if curves.rate is not None:
        pen.line([(x, 55), (x + 22, 55)], GREY, 2)
        pen.text(x + 29, 48, "learning rate, share of its peak", 13)


def _said(curve: Curve) -> str:
    last = f"{curve.label} {curve.line[-1]:.3f}"
    lowest = float(curve.y.min())
    return f"{last}, lowest {lowest:.3f}" if curve.falls and len(curve.y) > 1 else last


def _panel(
    pen: Pen,
    box: tuple[float, float, float, float],
    end: float,
    limits: tuple[float, float],
    curves: tuple[Curve, ...],
    *,
    most: int,
    colors: tuple[tuple[str, str], ...] = _COLORS,
) -> None:
    """Axes, grid and curves in a box (left, top, right, bottom); what lies outside is cut off."""
    left, top, right, bottom = box
    low, high = limits

    def at_y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    for value in ticks(low, high, most):
        pen.line([(left, at_y(value)), (right, at_y(value))], _GRID, 1)
        pen.text(left - 9, at_y(value), tick_label(value), 13, anchor="rm")
    for value in ticks(0, end, 9):
        across = left + value / end * (right - left)
        pen.line([(across, top), (across, bottom)], _GRID, 1)

    corner = round(left * FINE), round(top * FINE)
    inside = Pen(pen.image.crop((*corner, round((right + _MARK + 1) * FINE), round(bottom * FINE))))
    placed = [(curve, _pixels(curve, box, end, limits), pair) for curve, pair in zip(curves, colors, strict=False)]
    for curve, (x, y, _), (_, faint) in placed:
        if curve.smoothed:
            for point in zip(x, y, strict=True):
                inside.dot(*point, 1.8 if len(x) < 1000 else 1.1, faint)
    for curve, (x, _, line), (color, _) in placed:
        if len(x) > 1:
            inside.line(list(_thin(x, line)), color, 2)
        if len(x) == 1 or (curve.dotted and len(x) <= 100):
            for point in zip(x, line, strict=True):
                inside.dot(*point, _MARK, color)
    pen.image.paste(inside.image, corner)
    pen.line([(left, top), (left, bottom), (right, bottom)], GREY, 1)


def _pixels(
    curve: Curve, box: tuple[float, float, float, float], end: float, limits: tuple[float, float]
) -> tuple[list[float], list[float], list[float]]:
    """x, y and line of a curve in pixels from the box's corner; far outside is near outside."""
    width, height = box[2] - box[0], box[3] - box[1]
    low, high = limits

    def down(values: Points) -> list[float]:
        pixels: list[float] = (np.clip((high - values) / (high - low), -1, 2) * height).tolist()
        return pixels

    return (curve.x / end * width).tolist(), down(curve.y), down(curve.line)


def _thin(x: list[float], y: list[float]) -> Iterator[tuple[float, float]]:
    """Corners of a line, at least half a pixel apart."""
    last = -1.0
    for here, value in zip(x, y, strict=True):
        if here - last >= 0.5:
            last = here
            yield here, value

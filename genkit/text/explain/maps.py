"""Attention weights as a picture: all heads at a glance, or one with its tokens named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genkit.errors import UsageError
from genkit.text.explain.colors import share, web
from genkit.text.explain.page import escaped, html_page, picture_tag, visible
from genkit.training.pen import FINE, GREY, Pen, png, sheet

_TICKS = (0.0, 0.05, 0.25, 0.5, 1.0)
_PALETTE = np.array([share(i / 255) for i in range(256)], np.uint8)
_PANEL, _GAP, _MARGIN, _HEAD = 128, 12, 76, 96  # of an overview, in pixels
_CELL, _LABEL, _ROOM = 18, 12, 150  # of a single map: a token's place, its letters, and the most room for them
_EXPLAINED = "Row: a token. Column: what it attends to. A row adds up to 1."


@dataclass(frozen=True)
class Maps:
    """Attention weights that were chosen, and where they come from.

    Attributes:
        weights: (layers, heads, T, T).
        layers, heads: their numbers in the model.
        pieces: what the T tokens read as.
    """

    weights: NDArray[np.float32]
    layers: list[int]
    heads: list[int]
    pieces: list[str]

    @property
    def single(self) -> bool:
        return len(self.layers) == len(self.heads) == 1


def choose(weights: NDArray[np.float32], pieces: Sequence[str], layer: int | None, head: int | None) -> Maps:
    """All maps (L, H, T, T), or those of a layer, a head, or both.

    Raises:
        UsageError: the model has no such layer or head.
    """
    for flag, number, count in (("--layer", layer, weights.shape[0]), ("--head", head, weights.shape[1])):
        if number is not None and number >= count:
            raise UsageError(f"{flag} {number}: the model has {count}", f"they count from 0 to {count - 1}")
    layers = [*range(weights.shape[0])] if layer is None else [layer]
    heads = [*range(weights.shape[1])] if head is None else [head]
    return Maps(weights[np.ix_(layers, heads)], layers, heads, list(pieces))


def as_png(maps: Maps, title: str) -> bytes:
    """A single map with its tokens named, or a row of small ones for each layer."""
    return _single(maps, title) if maps.single else _overview(maps, title)


def as_html(maps: Maps, title: str) -> bytes:
    """The same as a page; over a single map the pointer tells each weight."""
    if maps.single:
        body = _table(maps)
    else:
        head = "".join(f"<th>head {number}</th>" for number in maps.heads)
        rows = "".join(
            f"<tr><th>layer {layer}</th>"
            + "".join(
                f"<td>{picture_tag(_pixels(maps.weights[i, j]), f'layer {layer}, head {number}', _PANEL)}</td>"
                for j, number in enumerate(maps.heads)
            )
            + "</tr>"
            for i, layer in enumerate(maps.layers)
        )
        body = f'<table class="maps"><tr><th></th>{head}</tr>{rows}</table>'
    scale = "".join(f'<span class="key" style="background:{web(share(tick**0.5))}"></span>{tick:g} ' for tick in _TICKS)
    return html_page(title, f"<p>{_EXPLAINED}</p><p>weight: {scale}</p>{body}")


def _table(maps: Maps) -> str:
    weights = maps.weights[0, 0]
    named = [escaped(visible(piece)) for piece in maps.pieces]
    head = "".join(f'<th class="up"><span>{name}</span></th>' for name in named)
    rows = []
    for i, name in enumerate(named):
        cells = "".join(
            f'<td style="background:{web(share(float(w) ** 0.5))}" title="{name} to {named[j]}: {w:.4f}"></td>'
            for j, w in enumerate(weights[i])
        )
        rows.append(f"<tr><th>{name}</th>{cells}</tr>")
    return f'<table class="map"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _overview(maps: Maps, title: str) -> bytes:
    T = len(maps.pieces)
    side = max(T, _PANEL // T * T)  # whole pixels a token
    across = max(len(maps.heads) * (side + _GAP), 430)
    image = sheet(_MARGIN + across + _GAP, _HEAD + len(maps.layers) * (side + _GAP) + _GAP)
    pen = Pen(image)
    _headings(pen, title, 16)
    for j, number in enumerate(maps.heads):
        pen.text(_MARGIN + j * (side + _GAP) + side / 2, _HEAD - 6, f"head {number}", 12, anchor="md")
    for i, number in enumerate(maps.layers):
        y = _HEAD + i * (side + _GAP)
        pen.text(_MARGIN - 9, y + side / 2, f"layer {number}", 12, anchor="rm")
        for j in range(len(maps.heads)):
            _paste(pen, maps.weights[i, j], _MARGIN + j * (side + _GAP), y, side)
    return png(image)


def _single(maps: Maps, title: str) -> bytes:
    T = len(maps.pieces)
    cell = max(2, min(_CELL, 1600 // T))
    side = cell * T
    every = -(-_LABEL // cell) if cell < _LABEL else 1  # labels must not overlap
    named = [visible(piece) for piece in maps.pieces]
    probe = Pen(sheet(1, 1))
    named = [_fitting(probe, name) for name in named]
    room = max(probe.width(name, _LABEL) for name in named) + 10
    top = _HEAD - 16 + room
    image = sheet(room + max(side, 430) + 16, top + side + 16)
    pen = Pen(image)
    _headings(pen, title, 16)
    for i in range(0, T, every):
        pen.text(room - 6, top + i * cell + cell / 2, named[i], _LABEL, anchor="rm")
        _upright(image, room + i * cell + cell / 2, top - 5, named[i])
    _paste(pen, maps.weights[0, 0], room, top, side)
    return png(image)


def _headings(pen: Pen, title: str, left: float) -> None:
    """The title, what the axes are, and the scale."""
    pen.text(left, 10, title, 16)
    x = left + pen.text(left, 34, _EXPLAINED, 12, color=GREY)
    x = left
    for tick in _TICKS:
        pen.box(x, 52, 14, 11, web(share(tick**0.5)))
        pen.line([(x, 52), (x + 14, 52), (x + 14, 63), (x, 63), (x, 52)], GREY, 0.5)
        x += 18 + pen.text(x + 18, 51, f"{tick:g}", 11) + 12


def _paste(pen: Pen, weights: NDArray[np.float32], x: float, y: float, side: float) -> None:
    """A map (T, T) with a frame."""
    drawn = _pixels(weights).resize((round(side * FINE),) * 2, Image.Resampling.NEAREST)
    pen.image.paste(drawn, (round(x * FINE), round(y * FINE)))
    pen.line([(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)], GREY, 0.5)


def _pixels(weights: NDArray[np.float32]) -> Image.Image:
    """One pixel a weight; the root of it is what is seen, or small ones would be white."""
    levels = (np.sqrt(weights.clip(0, 1)) * 255).round().astype(np.uint8)
    return Image.fromarray(_PALETTE[levels])


def _upright(image: Image.Image, x: float, bottom: float, text: str) -> None:
    """Text that runs upwards, its middle at x."""
    probe = Pen(image)
    strip = sheet(probe.width(text, _LABEL) + 2, _LABEL + 4)
    Pen(strip).text(1, (_LABEL + 4) / 2, text, _LABEL, anchor="lm")
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (round(x * FINE - turned.width / 2), round(bottom * FINE - turned.height)))


def _fitting(pen: Pen, name: str) -> str:
    """A token's name, cut where it is too long for its place."""
    if pen.width(name, _LABEL) <= _ROOM:
        return name
    while len(name) > 1 and pen.width(name + "…", _LABEL) > _ROOM:
        name = name[:-1]
    return name + "…"

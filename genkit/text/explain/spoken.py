"""An attribution as a picture: the text, each token coloured by how much it speaks for the target."""

from __future__ import annotations

from collections.abc import Sequence

from genkit.text.explain.colors import ink, signed, web
from genkit.text.explain.page import escaped, html_page
from genkit.training.pen import GREY, Pen, png, sheet

_WIDTH, _MARGIN, _LINE, _LETTERS = 900, 24, 44, 17  # in pixels
_SHARES = (-1.0, -0.5, 0.0, 0.5, 1.0)
_LEGEND = "blue speaks against it, red for it"


def as_png(pieces: Sequence[str], values: Sequence[float], title: str, sum_: str) -> bytes:
    """The text in lines of 900 pixels; below each token its value."""
    most = max((abs(value) for value in values), default=0.0) or 1.0
    probe = Pen(sheet(1, 1))
    placed, height = _lines(probe, pieces)
    image = sheet(_WIDTH, 110 + height + 20)
    pen = Pen(image)
    pen.text(_MARGIN, 14, title, 17)
    pen.text(_MARGIN, 40, sum_, 13, color=GREY)
    x = float(_MARGIN)
    for share in _SHARES:
        color = signed(share)
        width = pen.width(f"{share * most:+.2f}", 12) + 14
        pen.box(x, 64, width, 20, color)
        pen.text(x + width / 2, 74, f"{share * most:+.2f}", 12, color=web(ink(color)), anchor="mm")
        x += width
    pen.text(x + 12, 74, _LEGEND, 12, color=GREY, anchor="lm")
    for piece, value, (x, y, width) in zip(pieces, values, placed, strict=True):
        color = signed(value / most)
        pen.box(x, 110 + y, width, _LETTERS + 8, color)
        pen.text(x + 1, 110 + y + (_LETTERS + 8) / 2, _plain(piece), _LETTERS, color=web(ink(color)), anchor="lm")
        said = f"{value:+.2f}"
        if pen.width(said, 9) <= width + 2:
            pen.text(x + width / 2, 110 + y + _LETTERS + 17, said, 9, color=GREY, anchor="mm")
    return png(image)


def as_html(pieces: Sequence[str], values: Sequence[float], title: str, sum_: str) -> bytes:
    """The text on a page; the pointer tells each token's value."""
    most = max((abs(value) for value in values), default=0.0) or 1.0
    keys = "".join(
        f'<span class="key" style="background:{web(signed(share))}"></span>{share * most:+.2f}' for share in _SHARES
    )
    spans = "".join(
        f'<span style="background:{web(color)};color:{web(ink(color))}" title="{value:+.4f}">{escaped(piece)}</span>'
        for piece, value, color in ((lasting(p), v, signed(v / most)) for p, v in zip(pieces, values, strict=True))
    )
    return html_page(title, f'<p>{escaped(sum_)}</p><p>{keys} {_LEGEND}</p><p class="text">{spans}</p>')


def _lines(pen: Pen, pieces: Sequence[str]) -> tuple[list[tuple[float, float, float]], float]:
    """x, y and width of each token, and the height of all."""
    placed = []
    x, y = float(_MARGIN), 0.0
    words: list[list[str]] = []
    for piece in pieces:
        if not words or piece[:1].isspace() or "\n" in words[-1][-1]:
            words.append([])
        words[-1].append(piece)
    for word in words:
        widths = [pen.width(_plain(piece), _LETTERS) + 2 for piece in word]
        if x > _MARGIN and x + sum(widths) > _WIDTH - _MARGIN:
            x, y = float(_MARGIN), y + _LINE
        for width in widths:
            if x > _MARGIN and x + width > _WIDTH - _MARGIN:  # a word longer than a line
                x, y = float(_MARGIN), y + _LINE
            placed.append((x, y, width))
            x += width
        if "\n" in word[-1]:
            x, y = float(_MARGIN), y + _LINE
    return placed, y + _LINE


def lasting(piece: str) -> str:
    """A token whose line breaks stay, and which neither turns a page's writing round nor rings."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in piece)


def _plain(piece: str) -> str:
    return "".join(c if c.isprintable() else " " for c in piece)

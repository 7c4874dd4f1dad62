"""A page of HTML that needs no other file, and runs nothing."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2em; }
h1 { font-size: 1.2em; }
th { font-weight: normal; font-size: 12px; white-space: pre; text-align: right; padding: 0 6px 0 0; }
table { border-collapse: collapse; }
.map td { width: 18px; min-width: 18px; height: 18px; padding: 0; }
.map .up { vertical-align: bottom; padding: 0 0 6px; }
.map .up span { writing-mode: vertical-rl; transform: rotate(180deg); }
.maps th { text-align: center; }
.maps td { padding: 4px; }
img { image-rendering: pixelated; border: 1px solid #999; display: block; }
.text { font: 17px/2 ui-monospace, monospace; white-space: pre-wrap; max-width: 60em; }
.text span { padding: 2px 0; }
.key { display: inline-block; width: 1.2em; height: 1em; margin: 0 4px 0 10px; border: 1px solid #999;
  vertical-align: middle; }
"""


def html_page(title: str, body: str) -> bytes:
    """A whole document.

    Args:
        title: plain text; `body` is HTML.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escaped(title)}</h1>\n{body}\n</body></html>\n"
    ).encode("utf-8", "replace")


def picture_tag(image: Image.Image, label: str, side: int) -> str:
    """A picture inside the page, `side` pixels square."""
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    name = escaped(label)
    return f'<img src="data:image/png;base64,{data}" width="{side}" height="{side}" alt="{name}" title="{name}">'


def escaped(text: str) -> str:
    """Text that no browser takes for markup, also inside quotes."""
    return html.escape(text, quote=True)


def visible(piece: str) -> str:
    """A token on one line, with signs for the blanks that would not be seen."""
    shown = piece.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "·")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)

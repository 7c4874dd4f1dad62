"""Text, lines and dots on a picture that is drawn larger than it will be."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

FINE = 2  # drawn larger and scaled down: smooth lines
INK, GREY, PAPER = "#222222", "#6b6b6b", "#ffffff"


class Pen:
    """Draws in the coordinates of the finished picture."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self._draw = image, ImageDraw.Draw(image)

    def text(self, x: float, y: float, text: str, size: int, *, color: str = INK, anchor: str = "la") -> float:
        """Write `text`; returns its width."""
        font = ImageFont.load_default(size * FINE)
        self._draw.text((x * FINE, y * FINE), text, fill=color, font=font, anchor=anchor)
        return self._draw.textlength(text, font=font) / FINE

    def width(self, text: str, size: int) -> float:
        """How wide `text` would be."""
        return self._draw.textlength(text, font=ImageFont.load_default(size * FINE)) / FINE

    def line(self, points: list[tuple[float, float]], color: str, width: float) -> None:
        fine = [(x * FINE, y * FINE) for x, y in points]
        self._draw.line(fine, fill=color, width=round(width * FINE), joint="curve")

    def dot(self, x: float, y: float, radius: float, color: str) -> None:
        self._draw.circle((x * FINE, y * FINE), radius * FINE, fill=color)

    def box(self, x: float, y: float, width: float, height: float, color: str | tuple[int, int, int]) -> None:
        """A filled rectangle."""
        self._draw.rectangle((x * FINE, y * FINE, (x + width) * FINE - 1, (y + height) * FINE - 1), fill=color)


def sheet(width: float, height: float) -> Image.Image:
    """White paper for a picture of this size."""
    return Image.new("RGB", (round(width * FINE), round(height * FINE)), PAPER)


def png(image: Image.Image, colors: int = 256) -> bytes:
    """The picture at its own size, with a palette of at most so many colours."""
    small = image.resize((image.width // FINE, image.height // FINE), Image.Resampling.BOX)
    data = io.BytesIO()
    small.quantize(colors, dither=Image.Dither.NONE).save(data, "png", optimize=True)
    return data.getvalue()

"""Pictures on terminals: by the protocols of Kitty and iTerm2, by sixels, or in letters.

Chafa speaks the protocols (the package `chafa.py`, extra `preview`). Which one a
terminal knows is told by its environment: asking the terminal itself would write to
it, and read from a standard input that may belong to somebody else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CELL = (8, 16)  # pixels of a character, when nobody says
_BY_PROGRAM = {"iTerm.app": "ITERM2", "WezTerm": "ITERM2", "ghostty": "KITTY", "mintty": "SIXELS"}
_BY_TERM = {"xterm-kitty": "KITTY", "xterm-ghostty": "KITTY", "foot": "SIXELS", "foot-extra": "SIXELS",
            "mlterm": "SIXELS", "contour": "SIXELS", "yaft-256color": "SIXELS"}  # fmt: skip


def protocol(environ: Mapping[str, str]) -> str | None:
    """What the terminal of this environment shows pictures by: KITTY, ITERM2, SIXELS or nothing."""
    if "TMUX" in environ or environ.get("TERM", "").startswith(("screen", "tmux")):
        return None  # they do not hand pictures on
    return _BY_TERM.get(environ.get("TERM", "")) or _BY_PROGRAM.get(environ.get("TERM_PROGRAM", ""))


def encode(pixels: NDArray[np.uint8], name: str, columns: int) -> bytes | None:
    """The bytes that show a picture (H, W, C) in its own size, but at most `columns` wide.

    Returns:
        None where Chafa is not installed, or does not find its own libraries.
    """
    try:
        import chafa
    except (ImportError, OSError):
        return None
    import numpy as np

    from genkit.image.canvas import on_white

    pixels = on_white(pixels)
    height, width, _ = pixels.shape
    config = chafa.CanvasConfig()
    scale = min(1.0, columns * CELL[0] / width)
    config.width, config.height = (
        math.ceil(scale * side / cell) for side, cell in zip((width, height), CELL, strict=True)
    )
    # white up to the border of the last characters, or the picture would be stretched to it
    across, down = round(config.width * CELL[0] / scale), round(config.height * CELL[1] / scale)
    padded = np.pad(pixels, ((0, down - height), (0, across - width), (0, 0)), constant_values=255)
    config.cell_width, config.cell_height = CELL
    config.pixel_mode = chafa.PixelMode[f"CHAFA_PIXEL_MODE_{name}"]
    config.canvas_mode = chafa.CanvasMode.CHAFA_CANVAS_MODE_TRUECOLOR
    canvas = chafa.Canvas(config)
    rgb = np.broadcast_to(padded, (down, across, 3))  # grey to RGB
    canvas.draw_all_pixels(chafa.PixelType.CHAFA_PIXEL_RGB8, rgb.tobytes(), across, down, 3 * across)
    shown: bytes = canvas.print(chafa.TermDb().get_fallback_info())
    return shown + b"\n"


def shrink(pixels: NDArray[np.uint8], columns: int, *, lines: int) -> NDArray[np.uint8]:
    """A picture (H, W, C) as RGB pixels for characters twice as high as wide.

    Args:
        lines: rows of pixels in a character.

    Returns:
        uint8 (lines * N, columns, 3).
    """
    import numpy as np
    from PIL import Image

    from genkit.image.canvas import on_white, to_image

    height, width, _ = pixels.shape
    rows = max(1, round(columns * height / width / 2))
    small = to_image(on_white(pixels)).convert("RGB").resize((columns, lines * rows), Image.Resampling.LANCZOS)
    return np.asarray(small)


_SHADES = " .:-=+*#%@"


def letters(pixels: NDArray[np.uint8], columns: int) -> str:
    """A picture (H, W, C) in letters, the fuller the brighter."""
    bright = shrink(pixels, columns, lines=1) @ [0.299, 0.587, 0.114]  # Rec. 601
    levels = (bright * (len(_SHADES) - 1) / 255).round().astype(int)
    return "\n".join("".join(_SHADES[level] for level in row) for row in levels)

"""The colours that numbers have on heat lines and maps."""

from __future__ import annotations

Color = tuple[int, int, int]

_WARM: tuple[Color, ...] = ((255, 255, 255), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38))
_COLD: tuple[Color, ...] = ((255, 255, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))


def signed(value: float) -> Color:
    """From -1, blue, over 0, white, to 1, red; what lies beyond is as far as can be."""
    return _mixed(_WARM if value >= 0 else _COLD, abs(value))


def share(value: float) -> Color:
    """From 0, white, to 1, dark blue."""
    return _mixed(_COLD, value)


def ink(paper: Color) -> Color:
    """Black or white, whichever can be read on `paper`."""
    red, green, blue = paper
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def web(color: Color) -> str:
    """`#08306b`"""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _mixed(ramp: tuple[Color, ...], value: float) -> Color:
    along = min(max(value, 0.0), 1.0) * (len(ramp) - 1)
    first = min(int(along), len(ramp) - 2)
    red, green, blue = (round(a + (b - a) * (along - first)) for a, b in zip(ramp[first], ramp[first + 1], strict=True))
    return red, green, blue

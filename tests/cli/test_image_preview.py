"""`--preview`: pictures on standard error, by whatever the terminal can show."""

from __future__ import annotations

import base64
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.color import Color
from rich.style import Style

from genkit.cli import graphics, ui

ROOT = Path(__file__).parents[2]
TERMINAL = ("TERM", "TERM_PROGRAM", "TMUX", "COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")


def preview(model: Path, folder: Path, *args: str, columns: int = 40, **terminal: str) -> tuple[int, bytes, str]:
    """Exit code, standard output, and what a terminal on standard error received."""
    controller, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(TERMINAL)}
    process = subprocess.Popen(
        [sys.executable, "-m", "genkit", "image", "-m", str(model), "--preview", "--seed", "3", *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=screen, cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)} | terminal,
    )  # fmt: skip
    os.close(screen)
    shown = b""
    while True:
        try:
            block = os.read(controller, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(controller)
    out, _ = process.communicate()
    return process.returncode, out, shown.decode()


TRUE_COLOR = r"\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m"


def test_half_blocks_in_the_colours_of_the_terminal(tiny_image: Path, tmp_path: Path) -> None:
    code, out, shown = preview(tiny_image, tmp_path, "--n", "4", TERM="xterm-256color", COLORTERM="truecolor")
    assert (code, out) == (0, b"genkit-3.png\n")
    lines = shown.removesuffix("\r\n").split("\r\n")
    assert len(lines) == 20  # 70 x 70 pixels in 40 columns: 40 rows of pixels
    assert all(len(re.sub(r"\x1b\[[\d;]*m", "", line)) == 40 for line in lines)
    assert len(re.findall(TRUE_COLOR, shown)) > 20
    _, _, shown = preview(tiny_image, tmp_path, "--n", "4", TERM="xterm-256color")
    assert re.search(r"\x1b\[38;5;\d+;48;5;\d+m▀", shown)
    assert ";2;" not in shown


def test_letters_where_there_is_no_colour(tiny_image: Path, tmp_path: Path) -> None:
    for terminal in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
        code, out, shown = preview(tiny_image, tmp_path, "--n", "1", **terminal)
        assert (code, out) == (0, b"genkit-3.png\n")
        assert "\x1b" not in shown
        lines = shown.split("\r\n")[:-1]
        assert [len(line) for line in lines] == [36] * 18  # no wider than the picture


def test_a_terminal_of_pictures_gets_the_picture(tiny_image: Path, tmp_path: Path) -> None:
    pytest.importorskip("chafa")
    code, out, shown = preview(tiny_image, tmp_path, "--n", "1", TERM="xterm-kitty", columns=80)
    assert (code, out) == (0, b"genkit-3.png\n")
    assert shown.startswith("\x1b_Ga=T,f=32,")
    assert "▀" not in shown


def test_the_preview_is_beside_the_product(tiny_image: Path, tmp_path: Path) -> None:
    code, out, shown = preview(tiny_image, tmp_path, "--n", "1", "--out", "-", TERM="xterm")
    assert code == 0
    assert out.startswith(b"\x89PNG")
    assert b"\x1b[" not in out
    assert "▀" in shown


def test_without_a_terminal_it_is_refused(run_genkit: Callable[..., Any], tiny_image: Path, tmp_path: Path) -> None:
    done = run_genkit("image", "-m", str(tiny_image), "--preview")
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "error: --preview shows images on a terminal, and standard error is none (leave --preview out)\n"
    )
    code, _, shown = preview(tiny_image, tmp_path, "-q", "--color", "never")
    assert (code, shown) == (2, "error: --preview and --quiet contradict each other (leave one of them out)\r\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"TERM": "xterm-kitty"}, "KITTY"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "KITTY"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "ITERM2"),
        ({"TERM": "foot"}, "SIXELS"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, None),
        ({}, None),
    ],
)
def test_protocols(environ: dict[str, str], name: str | None) -> None:
    assert graphics.protocol(environ) == name


@pytest.mark.parametrize(
    ("name", "begins"), [("KITTY", b"\x1b_Ga=T,"), ("ITERM2", b"\x1b]1337;File=inline=1;"), ("SIXELS", b"\x1bP0;1;0q")]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encodings(name: str, begins: bytes, channels: int) -> None:
    pytest.importorskip("chafa")
    pixels = np.arange(32 * 48 * channels, dtype=np.uint8).reshape(32, 48, channels)
    shown = graphics.encode(pixels, name, 80)
    assert shown is not None
    assert shown.startswith(begins)
    assert shown.endswith(b"\n")


def test_previews_of_transparent_pictures_lie_on_white() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    assert (graphics.shrink(clear, 4, lines=2) == 255).all()
    assert graphics.letters(clear, 4) == "@@@@\n@@@@"


def test_a_preview_of_classes_shows_all_of_them(tiny_classes: Path, tmp_path: Path) -> None:
    code, out, shown = preview(tiny_classes, tmp_path, "--n", "48", TERM="xterm", NO_COLOR="1")
    assert (code, out) == (0, b"genkit-3.png\n")
    assert len(shown.split("\r\n")) == 21  # 4 x 4 pictures in 40 columns


@pytest.mark.parametrize(("height", "width"), [(32, 48), (30, 45)])
def test_kitty_gets_every_pixel(height: int, width: int) -> None:
    """In whole characters of 8 x 16 pixels, white where the picture has ended."""
    pytest.importorskip("chafa")
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    shown = graphics.encode(pixels, "KITTY", 80)
    assert shown is not None
    assert b"s=48,v=32,c=6,r=2," in shown
    blocks = re.findall(rb"\x1b_Gm=1;([^\x1b]*)\x1b", shown)
    held = np.frombuffer(b"".join(map(base64.b64decode, blocks)), np.uint8).reshape(32, 48, 4)
    np.testing.assert_array_equal(held[:height, :width, :3], pixels)
    assert (held[height:] == 255).all()
    assert (held[:, width:] == 255).all()


def test_without_chafa_there_are_half_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chafa", None)
    assert graphics.encode(np.zeros((2, 2, 3), np.uint8), "KITTY", 80) is None


def test_a_half_block_is_two_pixels() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.uint8)
    left, right, end = ui.half_blocks(pixels)
    assert (left.text, right.text, end.text) == ("▀", "▀", "\n")
    assert left.style == Style.from_color(Color.from_rgb(1, 2, 3), Color.from_rgb(7, 8, 9))
    assert right.style == Style.from_color(Color.from_rgb(4, 5, 6), Color.from_rgb(10, 11, 12))


def test_letters_follow_the_brightness() -> None:
    shades = np.repeat(np.repeat(np.array([[0, 128, 255]], np.uint8), 2, 0)[..., None], 3, 2)
    assert graphics.letters(shades, 3) == " +@"
    assert graphics.letters(np.full((8, 4, 1), 255, np.uint8), 4) == "\n".join(["@@@@"] * 4)


def test_shrinking_keeps_the_proportions() -> None:
    pixels = np.full((100, 200, 3), 9, np.uint8)
    assert graphics.shrink(pixels, 40, lines=2).shape == (20, 40, 3)
    assert graphics.shrink(pixels, 40, lines=1).shape == (10, 40, 3)
    assert graphics.shrink(pixels[:1], 40, lines=2).shape == (2, 40, 3)
    assert (graphics.shrink(pixels[:, :, :1], 7, lines=2) == 9).all()

"""Learning curves in characters, and the progress line: how they look at each width."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.cli.plot import plain, plot
from genkit.cli.ui import fitting
from genkit.training.curves import Curves, curves_of
from genkit.training.log import Progress

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
FALLING = [{"step": s, "loss": 2 + math.exp(-s / 20), "tokens": 100 * s} for s in range(1, 101)]
CROSSING = [{"step": s, "d_loss": s / 50, "g_loss": 3 - s / 50, "images": s} for s in range(1, 101)]
GAN = ["train-gan", "--data", "photos", "--size", "32", "--ngf", "4", "--ndf", "4", "--nz", "8", "--batch-size", "4"]


def drawn(rows: list[dict[str, Any]], **how: Any) -> list[str]:
    return plain(plot(curves(rows), **how)).splitlines()


def curves(rows: list[dict[str, Any]]) -> Curves:
    found = curves_of(rows)
    assert found is not None
    return found


def test_a_falling_loss_in_braille() -> None:
    assert drawn(FALLING, width=40, height=6) == [
        "     ━━ training loss 2.007",
        "    │⠈⢳⡀",
        "    │  ⠙⢦⡀",
        "2.5 ┤    ⠙⠦⣄",
        "    │      ⠈⠙⠦⣄⡀",
        "    │          ⠉⠙⠲⠤⢤⣀⣀",
        "  2 ┤                ⠈⠉⠉⠉⠓⠒⠒⠒⠒⠦⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤",
        "    └────────────────────────────────────────",
        "     0      2k      4k     6k      8k     10k  tokens",
    ]


def test_two_curves_can_be_told_apart_without_colour() -> None:
    assert drawn(CROSSING, width=50, height=5, braille=False) == [
        "   ** discriminator loss 2.000",
        "   oo generator loss 1.000",
        "  |ooooooooooooooo",
        "2 +              ooooooooooooooooo              *****",
        "  |                             *ooooooooooooooooo",
        "  |             *****************                oooo",
        "0 +**************",
        "  +--------------------------------------------------",
        "   0        20        40       60        80       100  images",
    ]
    assert drawn(CROSSING, width=24, height=5)[2:7] == [
        "  │⠉⠓ ⠦⢤ ⣀",
        "2 ┤      ⠈⠉ ⠒⠲ ⢤⣀       ⢀⣀⣠",
        "  │              ⣀⣉⡽⠤⠶⠾⠉⣉⡀",
        "  │      ⣀⣀⡤⠤⠖⠒⠋⠉⠁       ⠉",
        "0 ┤⣠⠤⠴⠒⠚⠉⠁",
    ]


def test_each_curve_is_a_piece_of_its_own_colour() -> None:
    for line in plot(curves(CROSSING), width=30, height=6):
        for piece in line:
            if piece.curve is not None:
                assert not piece.text.isspace()
                assert set(piece.text) <= set("━╍") | {chr(0x2800 + dots) for dots in range(1, 256)}


def test_what_was_measured_is_drawn_below() -> None:
    measured = [{"step": s, "kd": 1 - s / 200, "swd": 3.0, "diversity": s / 100} for s in range(20, 101, 20)]
    lines = drawn(sorted(CROSSING + measured, key=lambda row: row["step"]), width=60, height=6, braille=False)
    assert len(lines) == (1 + 6 + 1) + 2 * (1 + 3 + 1) + 1
    assert lines[0].split("** ")[1:] == ["discriminator loss 2.000   oo generator loss 1.000"]
    assert [lines[at].strip() for at in (8, 13)] == [
        "** kernel distance 0.500",
        "** share of the data's diversity 1.000",
    ]
    axes = [line.index("+---") for line in lines if "+---" in line]
    assert len(axes) == 3
    assert len(set(axes)) == 1
    assert lines[-1].endswith("images")
    diversity = lines[-5:-2]
    assert diversity[0].endswith("*")
    assert diversity[2].split("|")[-1].lstrip().startswith("*")


@pytest.mark.parametrize("rows", [[{"step": 5, "loss": 1.0}], [{"step": s, "loss": 1.0} for s in range(9)]])
@pytest.mark.parametrize("braille", [True, False])
def test_a_plot_has_its_size_whatever_it_shows(rows: list[dict[str, Any]], braille: bool) -> None:
    lines = drawn(rows, braille=braille)
    assert len(lines) == 15
    inside = "".join(line[5:] for line in lines[1:-2])
    assert inside.strip(" │┤|+")
    assert max(map(len, lines)) <= 76


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (110, "step 123  4.3M tokens  18.2k tok/s  1:02:03 left  loss 1.52  val_loss 1.62  val_ppl 5.1  val_bpb 2.34"),
        (95, "step 123  4.3M tokens  18.2k tok/s  1:02:03 left  loss 1.52  val_loss 1.62  val_bpb 2.34"),
        (75, "step 123  18.2k tok/s  1:02:03 left  loss 1.52  val_loss 1.62  val_bpb 2.34"),
        (65, "18.2k tok/s  1:02:03 left  loss 1.52  val_loss 1.62  val_bpb 2.34"),
        (55, "18.2k tok/s  1:02:03 left  loss 1.52  val_loss 1.62"),
        (40, "1:02:03 left  loss 1.52  val_loss 1.62"),
        (3, "1:02:03 left"),
    ],
)  # fmt: skip
def test_the_progress_line_keeps_what_tells_most(width: int, text: str) -> None:
    values = {"loss": 1.5234, "val_loss": 1.623, "val_ppl": 5.1, "val_bpb": 2.3412}
    assert fitting(Progress(123, 0.4, "tokens", 4_321_000, 18234.0, 3723.0, values), width) == text


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path


def on_a_terminal(args: list[str], folder: Path, **env: str) -> tuple[int, bytes, bytes]:
    """Run genkit with a terminal as standard error; its exit code, standard output and what the terminal got."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "genkit", *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **env},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(controller, 65536):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(controller)
    out, _ = process.communicate()
    return process.returncode, out, shown


def test_a_run_ends_with_its_curves(genkit: Run, photos: Path) -> None:
    code, out, shown = on_a_terminal([*GAN, "--steps", "30", "--out", "run"], photos)
    assert (code, out) == (0, b"run\n")
    assert "\x1b[34m━━\x1b[0m discriminator loss".encode() in shown
    with Image.open(photos / "run/curves.png") as image:
        assert image.size == (900, 780)  # two measured quantities below the losses

    told = genkit("info", "run", "--curves")
    assert told.code == 0
    lines = told.text.splitlines()
    assert lines[0].split()[:3] == ["━━", "discriminator", "loss"]
    assert lines[-1].split()[-1] == "images"
    again = genkit("train-gan", "--resume", "--out", "run", "--steps", "40", "-v")
    assert "╍╍ generator loss" in again.err
    refused = genkit("info", "run", "--curves", "--json")
    assert (refused.code, "run/metrics.jsonl" in refused.err) == (2, True)


def test_training_shows_its_pictures(photos: Path) -> None:
    """Above the bar, at every sheet, in whatever the terminal knows."""
    args = [*GAN, "--steps", "4", "--sample-interval", "2", "--out", "run", "--preview"]
    code, out, shown = on_a_terminal(args, photos, TERM="xterm-256color", COLUMNS="60")
    assert (code, out) == (0, b"run\n")
    text = shown.decode()
    blocks = [line for line in text.split("\r\n") if line.count("▀") >= 60]
    assert len(blocks) == 2 * 30  # two sheets of 4 x 4 pictures, square in 60 columns
    assert len(set(blocks)) > 30
    assert len([*(photos / "run/samples").glob("step-*.png")]) == 2
    again = [*args[:-1], "--force", "--preview"]
    code, _, shown = on_a_terminal(again, photos, TERM="xterm-256color", NO_COLOR="1", COLUMNS="60")
    assert code == 0
    assert b"\xe2\x96\x80" not in shown
    assert len(re.findall(r"[ .:=+*#%@-]{60}\r\n", shown.decode())) == 60


def test_a_preview_that_nobody_would_see_is_refused(run_genkit: Run, photos: Path) -> None:
    done = run_genkit(*GAN, "--steps", "4", "--out", "run", "--preview")
    assert done.code == 2
    assert done.err == (
        "error: --preview shows images on a terminal, and standard error is none (leave --preview out)\n"
    )
    told = [on_a_terminal([*GAN, "--steps", "4", "--preview", flag], photos)[::2] for flag in ("-q", "--dry-run")]
    assert [code for code, _ in told] == [2, 2]
    assert b"--preview and --quiet contradict each other" in told[0][1]
    assert b"--dry-run draws nothing that --preview could show" in told[1][1]
    assert not (photos / "run").exists()


def test_no_curves_where_nobody_looks(run_genkit: Run, photos: Path) -> None:
    """Nor anything else that is not ours, such as what native libraries say at exit."""
    done = run_genkit(*GAN, "--steps", "30", "--out", "run")
    assert (done.code, done.out) == (0, b"run\n")
    lines = done.err.splitlines()
    assert lines[0].startswith("8 images")
    assert any(line.startswith("the budget means about 120 images, 15 epochs, 30 steps, until ") for line in lines)
    assert sum(line.startswith("trained 30 steps") for line in lines) == 1
    assert lines[-1].startswith("sample it: ")


def test_quiet_on_a_terminal(photos: Path) -> None:
    assert on_a_terminal([*GAN, "--steps", "30", "--out", "run", "-q"], photos) == (0, b"run\n", b"")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "has no metrics.jsonl"),
        ([], "fewer than two points"),
        ([{"step": 1, "loss": 2.0}], "fewer than two points"),
    ],
)
def test_no_curves_to_draw(
    genkit: Run, tiny_text: Path, tmp_path: Path, rows: list[dict[str, Any]] | None, message: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in tiny_text.iterdir():
        (run / path.name).symlink_to(path)
    if rows is not None:
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = genkit("info", "run", "--curves")
    assert (done.code, done.out) == (3, b"")
    assert message in done.err

"""`genkit explain`: what it prints, draws and refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.cli import ui

Run = Callable[..., Any]
TEXT = "The cat sat"


def test_a_table_in_a_pipe(genkit: Run, tiny_text: Path) -> None:
    done = genkit("explain", str(tiny_text), TEXT)
    assert (done.code, done.err) == (0, "")
    head, *rows = done.text.splitlines()
    assert head.split() == ["token", "probability", "rank", "entropy", "likeliest"]
    assert "\x1b" not in done.text
    for number, (row, letter) in enumerate(zip(rows, TEXT, strict=False)):
        assert re.match(rf'\s*{number}  "{re.escape(letter)}"\s+0\.\d{{4}}\s+\d+\s+\d\.\d\d  "', row), row
    assert rows[len(TEXT)] == ""
    assert rows[len(TEXT) + 1].startswith("loss    ")
    assert rows[len(TEXT) + 2].startswith('next    "')


def test_a_heat_line_in_colour(genkit: Run, tiny_text: Path) -> None:
    done = genkit("explain", str(tiny_text), TEXT, "--color", "always")
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.text).splitlines()
    assert plain[0] == TEXT
    assert len(plain[1]) == len(TEXT)
    assert set(plain[1]) <= set("▁▂▃▄▅▆▇█")
    assert plain[2].startswith("surprise in bits: 0 ")
    assert "\x1b[" in done.text


def test_a_terminal_that_tells_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "is_terminal", lambda stream: True)
    monkeypatch.setattr(ui.os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
    assert ui.heat([ui.Cell("The", 0.0, "▁"), ui.Cell(" cat", 1.0, "▂")]).splitlines()[0].startswith("The")


def test_columns_are_as_wide_as_they_look() -> None:
    rows = [["", "token", "p"], ["0", "\u732b", "0.5"], ["10", "cat", "0.25"]]
    assert ui.columns(rows, {1}) == "    token     p\n 0  \u732b      0.5\n10  cat    0.25\n"


def test_nothing_in_a_table_turns_the_writing_round(genkit: Run, tiny_text: Path) -> None:
    said = genkit("explain", str(tiny_text), "The cat\u202e sat\x9b").text
    assert not {"\u202e", "\x9b"} & set(said)
    assert "\\u202e" in said


def test_json(genkit: Run, tiny_text: Path) -> None:
    found = json.loads(genkit("explain", str(tiny_text), TEXT, "--top", "2", "--json").out)
    assert "".join(token["token"] for token in found["tokens"]) == TEXT
    assert all(len(token["top"]) == 2 for token in found["tokens"])
    losses = [-token["logprob"] for token in found["tokens"]]
    assert found["loss"] == pytest.approx(np.mean(losses))
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)))


def test_the_text_may_come_from_standard_input(genkit: Run, tiny_text: Path) -> None:
    assert genkit("explain", str(tiny_text), input=b"The cat sat\n").out == genkit("explain", str(tiny_text), TEXT).out


def test_all_attention_maps(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    done = genkit("explain", str(tiny_text), TEXT, "--attention", "maps.png", "--json")
    assert json.loads(done.out)["attention"] == {"file": "maps.png", "layers": [0, 1], "heads": [0, 1]}
    pixels = np.asarray(Image.open(tmp_path / "maps.png").convert("RGB"))
    side = 128 // 12 * 12
    for layer in range(2):
        y = 96 + layer * (side + 12)
        row = pixels[y + side // 24, 76 : 76 + side]  # the first token sees itself alone
        assert (row[4] == (8, 48, 107)).all()
        assert (row[20:-4] == 255).all()


def test_one_attention_map(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    one = ("--layer", "1", "--head", "0")
    done = genkit("explain", str(tiny_text), "<b>&\t", "--attention", "map.html", *one)
    assert (done.code, done.err) == (0, "wrote map.html\n")
    page = (tmp_path / "map.html").read_text()
    cells = re.findall(r'<td style="background:(#[0-9a-f]{6})" title="([^"]*)"></td>', page)
    assert len(cells) == 6 * 6
    assert cells[0] == ("#08306b", "&lt;|endoftext|&gt; to &lt;|endoftext|&gt;: 1.0000")
    assert genkit("explain", str(tiny_text), TEXT, "--attention", "map.png", *one).code == 0
    with Image.open(tmp_path / "map.png") as image:
        assert (image.format, image.width >= 430) == ("PNG", True)


class Page(HTMLParser):
    """What a page asks a browser for, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.asked: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.asked += [value or "" for name, value in attrs if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.mark.parametrize("flag", ["--attention", "--attribution"])
def test_pages_need_nothing_and_run_nothing(genkit: Run, tiny_text: Path, tmp_path: Path, flag: str) -> None:
    if flag == "--attribution":
        pytest.importorskip("captum")
    hostile = "</span><script>alert(1)</script>\"'\u202e\x1b"
    done = genkit("explain", str(tiny_text), hostile, flag, "page.html")
    assert done.code == 0, done.err
    page = Page((tmp_path / "page.html").read_text())
    assert not {"\u202e", "\x1b"} & set((tmp_path / "page.html").read_text())
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert all(value.startswith("data:image/png;base64,") for value in page.asked)
    assert "http" not in "".join(page.asked)
    if flag == "--attribution":
        known = set("The cat sat on the mat. The dog ran to the cat. A bird sang in the tree.\n")
        assert all(letter in page.said for letter in set(hostile) & known)


def test_an_attribution(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    why = ("--attribution", "why.png", "--position", "4", "--target", "s", "--steps", "9")
    found = json.loads(genkit("explain", str(tiny_text), TEXT, *why, "--json").out)["attribution"]
    assert (found["target"], found["position"], found["steps"], found["file"]) == ("s", 4, 9, "why.png")
    assert [token["token"] for token in found["tokens"]] == list("The ")
    assert found["error"] == pytest.approx(sum(t["value"] for t in found["tokens"]) - found["difference"], abs=1e-6)
    with Image.open(tmp_path / "why.png") as image:
        assert image.width == 900
    shown = genkit("explain", str(tiny_text), TEXT, *why)
    assert "attribution" in shown.text.splitlines()[0]
    assert 'target  "s": the text moves its logit by ' in shown.text
    again = genkit("explain", str(tiny_text), TEXT, *why, "--no-clobber")
    assert (again.code, "why.png" in again.err) == (4, True)


def test_directions_of_an_image_model(genkit: Run, tiny_classes: Path, tmp_path: Path) -> None:
    more = ("--directions", "2", "--columns", "3", "--seed", "4", "--class", "pear", "--strength", "2.5")
    done = genkit("explain", str(tiny_classes), *more, "--out", "strip.png")
    assert (done.code, done.text) == (0, "strip.png\n")
    with Image.open(tmp_path / "strip.png") as image:
        strip, note = np.asarray(image), dict(image.info)
    assert (note["directions"], note["strength"], note["class"], note["seeds"]) == ("2", "2.5", "pear", "4")
    genkit("image", "-m", str(tiny_classes), "--seeds", "4", "--class", "pear", "--out", "one.npz")
    with np.load(tmp_path / "one.npz") as arrays:
        drawn = arrays["images"][0].astype(int)
    alpha = drawn[..., 3:]
    expected = (drawn[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255  # on white
    for row in range(2):
        y, x = 26 + 2 + row * 34, 44 + 2 + 34
        np.testing.assert_array_equal(strip[y : y + 32, x : x + 32], expected)
    assert (strip[28:60, 46:78] != strip[28:60, 80:112]).any()
    info = genkit("info", "strip.png")
    assert (info.code, "strength" in info.text) == (0, True)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["{text}", "x", "--layer", "1"], 2, "--layer chooses among attention maps; none is drawn"),
        (["{text}", "x", "--attention", "a.png", "--layer", "2"], 2, "--layer 2: the model has 2"),
        (["{text}", "x", "--target", "a"], 2, "--target is about an attribution, and none is drawn"),
        (["{text}", "x", "--attention", "a.gif"], 2, "--attention a.gif: neither .png nor .html"),
        (["{text}", "x", "--directions", "2"], 2, "--directions is not for text models"),
        (["{text}", "x", "--out", "a.png"], 2, "--out is not for text models"),
        (["{text}", ""], 3, "the text is empty"),
        (["{text}", "a" * 70], 3, "70 tokens"),
        (["{image}", "x"], 2, "is an image model, and reads no text"),
        (["{image}", "--top", "3"], 2, "--top is not for image models"),
        (["{image}", "--out", "a.gif"], 2, "--out a.gif: the strip is a png"),
        (["{image}", "--columns", "4"], 2, "--columns 4 has no middle"),
        (["{image}", "--directions", "9"], 2, "--directions 9: the latent has 8"),
        (["{image}", "--class", "cat"], 2, "the model has no classes"),
        (["nowhere", "x"], 3, "no model 'nowhere'"),
    ],
)
def test_mistakes(genkit: Run, tiny_text: Path, tiny_image: Path, args: list[str], code: int, message: str) -> None:
    filled = [arg.format(text=tiny_text, image=tiny_image) if arg.startswith("{") else arg for arg in args]
    done = genkit("explain", *filled)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_a_gguf_is_refused(genkit: Run, tiny_text: Path) -> None:
    genkit("export", str(tiny_text), "--to", "gguf", "--out", "a.gguf")
    done = genkit("explain", "a.gguf", "x")
    assert (done.code, "a .gguf file is not explained" in done.err) == (3, True)

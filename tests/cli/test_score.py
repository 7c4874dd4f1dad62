"""`genkit score`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("the cat sat on the mat\na dog runs fast\n")
    (tmp_path / "r.txt").write_text("the cat is on the mat\na dog runs fast\n")


@pytest.mark.usefixtures("files")
def test_figures_and_their_scales(genkit: Run) -> None:
    done = genkit(
        "score", "--candidates", "c.txt", "--references", "r.txt", "--metric", "exact,distinct", "--metric", "chrf"
    )
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.text.splitlines()] == [
        "exact",
        "distinct-1",
        "distinct-2",
        "distinct-3",
        "chrf",
    ]
    assert done.text.splitlines()[0].split() == ["exact", "0.5000", "of", "1"]
    assert done.text.splitlines()[-1].endswith("of 100")
    assert done.err == ""


@pytest.mark.usefixtures("files")
def test_json_has_the_signature(genkit: Run) -> None:
    done = genkit("score", "--candidates", "-", "--references", "r.txt", "--json", input=b"x\na dog runs fast\n")
    found = json.loads(done.out)
    assert found["metrics"]["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert (found["texts"], found["references_max"]) == (2, 1)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "--candidates is missing"),
        (["--candidates", "c.txt"], 3, "c.txt:1 is a candidate without a reference"),
        (["--candidates", "c.txt", "--metric", "blue"], 2, "--metric 'blue' is no metric (did you mean 'bleu'?)"),
        (["--candidates", "c.txt", "--metric", "xyz"], 2, "(there is bleu, chrf, chrf++, distinct, exact,"),
        (["--candidates", "c.txt", "--metric", "exact", "--tokenize", "zh"], 2, "--tokenize changes nothing of exact"),
        (["--candidates", "c.txt", "--metric", "rouge", "--lowercase"], 2, "--lowercase changes nothing of rouge"),
        (["--candidates", "c.txt", "--metric", "distinct", "--reference-field", "x"], 2, "--reference-field changes"),
        (["--candidates", "-", "--references", "-"], 2, "- was given twice"),
        (["--candidates", "c.txt", "--references", "r.txt", "--metric", "distinct"], 2, "no references"),
    ],
)
def test_mistakes_are_named(genkit: Run, args: list[str], code: int, message: str) -> None:
    done = genkit("score", *args)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_rouge_says_that_it_sees_no_other_script(genkit: Run, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("кот сидит\n")
    done = genkit("score", "--candidates", "c.txt", "--references", "c.txt", "--metric", "rouge")
    assert done.code == 0
    assert "rouge sees a-z and 0-9 alone, 0 of 8" in done.err


def test_a_pipe_is_read_as_a_file(genkit: Run, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("a cat\n")
    ends = os.pipe()  # as the shell's <(command)
    os.write(ends[1], b"a cat\n")
    os.close(ends[1])
    try:
        done = genkit("score", "--candidates", f"/dev/fd/{ends[0]}", "--references", "r.txt", "--metric", "exact")
    finally:
        os.close(ends[0])
    assert (done.code, done.text.split()) == (0, ["exact", "1.0000", "of", "1"])
    folder = genkit("score", "--candidates", ".", "--references", "r.txt")
    assert (folder.code, "Is a directory" in folder.err) == (3, True)

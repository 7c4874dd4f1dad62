"""`genkit text --filter`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def text(genkit: Run, tiny_text: Path) -> Run:
    def text(*args: str, **more: Any) -> Any:
        return genkit("text", "-m", str(tiny_text), "--max-new-tokens", "6", "--seed", "8", *args, **more)

    return text


def words_of(done: Any) -> list[str]:
    return [sample["text"] for sample in json.loads(done.out)["samples"]]


def test_a_rejected_text_is_drawn_anew(text: Run) -> None:
    plain = words_of(text("The", "-n", "4", "--json"))
    letter = next(c for c in plain[1] if c.isalpha() and not any(c.lower() in t.lower() for t in plain[:1]))
    done = text("The", "-n", "4", "--json", "--filter-pattern", letter, "--filter-attempts", "200")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert not any(letter.lower() in sample["text"].lower() for sample in found["samples"])
    assert found["samples"][0]["text"] == plain[0]
    assert found["samples"][0]["rejected"] == 0 < found["samples"][1]["rejected"]
    rejected = sum(sample["rejected"] for sample in found["samples"])
    assert found["filter"] == {
        "drawn": 4 + rejected, "rejected": rejected, "by": {"patterns": rejected}, "unfilled": 0
    }  # fmt: skip
    assert f"filter: {rejected} of {4 + rejected} drawn texts rejected ({rejected} by patterns)" in done.err
    again = text("The", "-n", "2", "--json", "--filter-pattern", letter, "--filter-attempts", "200")
    assert words_of(again) == words_of(done)[:2]


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_what_cannot_be_filled_is_not_printed(text: Run, form: str) -> None:
    done = text("The", "-n", "2", "--format", form, "--filter-pattern", "(?s).", "--filter-attempts", "2")
    assert done.code == 7
    assert "2 texts were rejected as often as drawn" in done.err
    assert "filter: 4 of 4 drawn texts rejected (4 by patterns)" in done.err
    if form == "json":
        found = json.loads(done.out)
        assert (found["samples"], found["filter"]["unfilled"]) == ([], 2)
    else:
        assert done.out == b""


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_a_file_is_not_replaced_by_nothing(text: Run, tmp_path: Path, form: str) -> None:
    (tmp_path / "o").write_text("precious")
    args = ("The", "--format", form, "--filter-pattern", "(?s).", "--filter-attempts", "2", "--output", "o")
    done = text(*args)
    assert (done.code, done.out, (tmp_path / "o").read_text()) == (7, b"", "precious")
    assert done.err.count("filter: 2 of 2 drawn texts rejected") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_separators_stand_between_what_is_left(text: Run) -> None:
    plain = words_of(text("The", "-n", "3", "--json", "--temperature", "1"))
    args = ("The", "-n", "3", "--temperature", "1", "--filter-pattern", re.escape(plain[0]), "--filter-attempts", "1")
    done = text(*args, "--no-echo")
    assert done.code == 7
    assert done.text == "".join(f"{'---' + chr(10) if i else ''}{t}" + "\n" for i, t in enumerate(plain[1:]))


def test_batches(text: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("The\nA dog\n")
    (tmp_path / "words.txt").write_text("zebra\n")
    plain = [json.loads(line) for line in text("--input", "in.txt").out.splitlines()]
    done = text("--input", "in.txt", "--filter", "@words.txt", "--output", "out.jsonl")
    assert done.code == 0, done.err
    assert "filter: 0 of 2 drawn texts rejected" in done.err
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["samples"][0].pop("rejected") for line in found] == [0, 0]
    assert found == plain
    first = re.escape(plain[0]["samples"][0]["text"])
    done = text("--input", "in.txt", "--filter-pattern", first, "--filter-attempts", "1")
    assert done.code == 7
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0]["error"]["message"] == "the filter rejected every draw"
    assert lines[1]["samples"][0]["text"] == plain[1]["samples"][0]["text"]
    some = text("--input", "in.txt", "-n", "2", "--filter-pattern", first, "--filter-attempts", "1")
    assert some.code == 7
    assert "1 text was rejected as often" in some.err
    line = json.loads(some.out.splitlines()[0])
    assert (line["unfilled"], [sample["index"] for sample in line["samples"]]) == (1, [1])


def test_a_batch_goes_on_with_the_same_filter_only(text: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("The\n")
    (tmp_path / "words.txt").write_text("zebra\n")
    from genkit.text.batches.journal import Journal

    assert text("--input", "in.txt", "--filter", "@words.txt", "--output", "out.jsonl").code == 0
    with Journal(str(tmp_path / "o.jsonl"), clobber=True) as journal:
        journal.begin({"seed": 3, "filter": {"filter": ["zebra"]}})
        journal.append({"id": 1}, "x" * 16)
    done = text("--input", "in.txt", "--filter", "@words.txt", "--output", "o.jsonl")
    assert done.code == 2
    assert "of another job" in done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--filter", ""], 2, "--filter '' would reject every text"),
        (["--filter", "@none.txt"], 3, "cannot read none.txt"),
        (["--filter-pattern", "(a"], 2, "is not a regular expression"),
        (["--filter-pattern", r"(a)\1"], 2, "back-reference"),
        (["--filter-attempts", "3"], 2, "--filter-attempts is about a filter"),
        (["--filter", "a", "--stream"], 2, "--stream does not go with a filter"),
        (["--filter-label", "toxic"], 2, "needs --filter-model"),
        (["--filter-model", "story", "--filter-label", "toxic"], 3, "story is no classifier"),
    ],
)
def test_mistakes_are_named(text: Run, args: list[str], code: int, message: str) -> None:
    done = text("The", *args)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err

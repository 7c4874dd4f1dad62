"""Candidates and references out of files."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from genkit.errors import InputError
from genkit.text.metrics.texts import read_texts


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(name: str, *lines: Any) -> str:
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        data = text.encode()
        Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return name

    return write


def test_plain_lines_with_several_references(write: Any) -> None:
    write("c.txt", "one", "", "three")
    write("a.txt.gz", "1", "2", "")
    write("b.txt", "I", "", "III")
    found = read_texts("c.txt", ["a.txt.gz", "b.txt"])
    assert found.candidates == ["one", "", "three"]
    assert found.references == [["1", "I"], ["2"], ["III"]]


def test_fields_of_records(write: Any) -> None:
    write("c.jsonl", {"output": "a", "references": ["x", "y"]}, {"output": "b", "references": "z"})
    assert read_texts("c.jsonl") == (["a", "b"], [["x", "y"], ["z"]])
    write("c.csv", "said,truth", "a,x", "b,y")
    assert read_texts("c.csv", candidate_field="said", reference_field="truth") == (["a", "b"], [["x"], ["y"]])
    write("r.tsv", "n\ttarget", "1\tp", "2\tq")
    assert read_texts("c.csv", ["r.tsv"], candidate_field="said").references == [["p"], ["q"]]


def test_what_genkit_text_wrote(write: Any) -> None:
    write("r.txt", "x", "y")
    lines = [{"id": 1, "prompt": "p", "seed": 0, "samples": [{"index": 0, "text": t}]} for t in "ab"]
    stream = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
    assert read_texts("-", ["r.txt"], stdin=stream).candidates == ["a", "b"]
    assert read_texts("-", stdin=io.BytesIO(b'{"text": "a"}\n\n{"text": "b"}\n'), paired=False).candidates == ["a", "b"]
    assert read_texts("-", stdin=io.BytesIO(b"{not json\n"), paired=False).candidates == ["{not json"]


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a", "b"], ["x"], "c.txt:2 has no partner: r.txt ends after line 1"),
        (["a"], ["x", "y"], "r.txt:2 has no partner: c.txt ends after line 1"),
        (["a", "b"], ["x", " "], "the candidate c.txt:2 has no reference"),
        ([], ["x"], "c.txt holds no candidates"),
    ],
)
def test_unpaired_lines_are_named(write: Any, candidates: list[str], references: list[str], message: str) -> None:
    write("c.txt", *candidates)
    write("r.txt", *references)
    with pytest.raises(InputError, match=message):
        read_texts("c.txt", ["r.txt"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"said": "a"}, r"c.jsonl:1 has no field candidate or prediction or output or text .*--candidate-field: said"),
        ({"text": 3}, "the candidate is 3, not text"),
        ({"samples": [{"text": "a"}, {"text": "b"}]}, "has 2 samples"),
        ({"error": {"message": "too long"}}, "was refused: too long"),
        ({"output": "a"}, "has no field references or reference or target or text"),
        ({"output": "a", "references": [1]}, "a reference is 1, not text"),
        ({"output": "a", "references": []}, "has no reference"),
    ],
)
def test_broken_records_are_named(write: Any, line: dict[str, Any], message: str) -> None:
    write("c.jsonl", line)
    with pytest.raises(InputError, match=message):
        read_texts("c.jsonl")


def test_missing_files_and_partners(write: Any) -> None:
    write("c.txt", "a")
    with pytest.raises(InputError, match=r"r\.txt: no such file"):
        read_texts("c.txt", ["r.txt"])
    with pytest.raises(InputError, match=r"c\.txt:1 is a candidate without a reference"):
        read_texts("c.txt")
    Path("z.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"z\.txt\.gz cannot be read"):
        read_texts("z.txt.gz")
    stream = io.BytesIO(b'{"text": "a"}\nplain\n')
    with pytest.raises(InputError, match="standard input:2 is not a JSON object"):
        read_texts("-", stdin=stream, paired=False)


def test_fields_are_not_asked_of_plain_lines(write: Any) -> None:
    write("c.txt", "a")
    write("r.jsonl", {"truth": "a"})
    with pytest.raises(InputError, match=r"c\.txt:1 is plain text without fields .*--candidate-field"):
        read_texts("c.txt", ["c.txt"], candidate_field="said")
    with pytest.raises(InputError, match=r"c\.txt is plain text without fields .*--reference-field"):
        read_texts("c.txt", ["c.txt"], reference_field="truth")
    assert read_texts("c.txt", ["c.txt", "r.jsonl"], reference_field="truth").references == [["a", "a"]]

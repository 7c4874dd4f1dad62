"""Pairs out of files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from genkit.errors import InputError
from genkit.text.pairs import NAMES, read_pairs


def _write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _sides(path: Path, **fields: str) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in read_pairs([path], **fields)]


@pytest.mark.parametrize(("source", "target"), NAMES)
def test_sides_are_found_by_the_names_of_the_field(tmp_path: Path, source: str, target: str) -> None:
    path = _write(tmp_path / "pairs.jsonl", {"id": 1, source: "a b", target: "c"}, {source: "d", target: "e"})
    assert _sides(path) == [("a b", "c"), ("d", "e")]


def test_other_names_are_given(tmp_path: Path) -> None:
    path = _write(tmp_path / "pairs.jsonl", {"en": "house", "de": "Haus", "source": "x", "target": "y"})
    assert _sides(path, source_field="en", target_field="de") == [("house", "Haus")]
    assert _sides(path, target_field="de") == [("x", "Haus")]


def test_an_instruction_takes_its_input_with_it(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "pairs.jsonl",
        {"instruction": "Translate.", "input": "house", "output": "Haus"},
        {"instruction": "Greet.", "input": "", "output": "Hallo"},
    )
    assert _sides(path) == [("Translate.\n\nhouse", "Haus"), ("Greet.", "Hallo")]


def test_two_columns_of_tsv_need_no_header(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text('no\tno\nsay "yes"\tsag "ja"\n')
    assert [*read_pairs([path])] == [
        ("no", "no", f"{path}:1"),
        ('say "yes"', 'sag "ja"', f"{path}:2"),
    ]


def test_tables_with_a_header(tmp_path: Path) -> None:
    tsv, csv = tmp_path / "pairs.tsv", tmp_path / "pairs.csv"
    tsv.write_text("tgt\tsrc\nHaus\thouse\n")
    csv.write_text('source,target\n"one, two","eins\nzwei"\nthree,drei\n')
    assert _sides(tsv) == [("house", "Haus")]
    assert [*read_pairs([csv])] == [("one, two", "eins\nzwei", f"{csv}:2"), ("three", "drei", f"{csv}:4")]


def test_compressed_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"source": "c", "target": "d"}\n'))
    _write(tmp_path / "a.jsonl", {"source": "a", "target": "b"})
    (tmp_path / "readme.md").write_text("not data")
    assert _sides(tmp_path) == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"source": "a"}, "is no pair: it has source"),
        ({"text": "a"}, "is no pair: it has text"),
        ({"source": "a", "target": " \n"}, "target is empty"),
        ({"source": "", "target": "a"}, "source is empty"),
        ({"source": "a", "target": ["b"]}, "target is ['b'], not text"),
        ({"source": "a", "target": None}, "target is None, not text"),
        ({"source": "\ud800", "target": "a"}, "source holds half a surrogate pair"),
        (["a", "b"], "is not an object with fields"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path, bad: object, problem: str) -> None:
    path = _write(tmp_path / "pairs.jsonl", {"source": "a", "target": "b"}, bad)
    with pytest.raises(InputError) as caught:
        list(read_pairs([path]))
    assert f"{path}:2" in str(caught.value)
    assert problem in str(caught.value)
    assert caught.value.hint


def test_a_field_that_is_not_there(tmp_path: Path) -> None:
    path = _write(tmp_path / "pairs.jsonl", {"en": "a", "de": "b"})
    with pytest.raises(InputError, match=r"has no field 'fr'.*--target-field: en, de"):
        _sides(path, source_field="en", target_field="fr")


def test_a_line_of_tsv_without_a_partner(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tb\nc\n")
    with pytest.raises(InputError, match=r"pairs.tsv:2 has 1 columns"):
        _sides(path)


def test_half_a_surrogate_pair_can_be_replaced(tmp_path: Path) -> None:
    path = _write(tmp_path / "pairs.jsonl", {"source": "a\ud800", "target": "b"})
    assert next(read_pairs([path], errors="replace")).source == "a\ufffd"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("empty.jsonl", "", "holds no pairs"),
        ("pairs.tsv", "source\ttarget\n", "holds no pairs"),
        ("pairs.txt", "a\tb\n", "says nothing of fields"),
        ("missing.jsonl", None, "no such file"),
    ],
)
def test_a_file_without_pairs(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        _sides(tmp_path / name)


def test_a_folder_without_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match="holds no files of pairs"):
        _sides(tmp_path)

"""Labelled texts: what is read, what is refused and where, and who is held out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from genkit.errors import InputError, UsageError
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.data import prepare
from genkit.text.classify.labelled import Example, classes_of, contradictions, read_examples, split

ROWS: list[dict[str, Any]] = [{"text": f"text {i}", "label": "odd" if i % 2 else "even"} for i in range(20)]


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(*paths: str, text: str = "text", label: str = "label", pair: str | None = None) -> list[Example]:
    return read_examples(paths, text_field=text, label_field=label, pair_field=pair)


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    expected = [("a, b", "x"), ("c", "y")]
    jsonl(tmp_path / "a.jsonl", [{"text": text, "label": label, "more": 1} for text, label in expected])
    (tmp_path / "a.csv").write_text('label,text\nx,"a, b"\n\ny,c\n')
    (tmp_path / "a.tsv").write_text("text\tlabel\na, b\tx\nc\ty\n")
    (tmp_path / "a.json").write_text(json.dumps([{"text": text, "label": label} for text, label in expected]))
    with gzip.open(tmp_path / "a.tsv.gz", "wb") as file:
        file.write((tmp_path / "a.tsv").read_bytes())
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.json", "a.tsv.gz"):
        assert [(e.text, e.label) for e in read(str(tmp_path / name))] == expected, name
    assert [e.where for e in read(str(tmp_path / "a.csv"))] == [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:4"]


def test_fields_have_the_names_that_the_user_gives(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"premise": "p", "claim": "c", "gold": 2}])
    found = read(path, text="premise", label="gold", pair="claim")
    assert found == [Example("p", "c", "2", f"{path}:1")]


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ({"label": "x"}, "a.jsonl:2 has no field 'text'", "--text-field: label"),
        ({"text": "x"}, "a.jsonl:2 has no field 'label'", "--label-field: text"),
        ({"text": " ", "label": "x"}, "a.jsonl:2: text is empty", "remove the line"),
        ({"text": 3, "label": "x"}, "a.jsonl:2: text is 3, not text", "--text-field"),
        ({"text": "\ud800", "label": "x"}, "a.jsonl:2: text holds half a surrogate pair", "mend"),
        ({"text": "x", "label": ""}, "a.jsonl:2: label is empty", "give a label"),
        ({"text": "x", "label": None}, "a.jsonl:2: label is empty", "give a label"),
        ({"text": "x", "label": 0.5}, "a.jsonl:2: the label 0.5 is neither text nor a whole number", "one class"),
        ({"text": "x", "label": ["a", "b"]}, "the label ['a', 'b'] is neither", "one class"),
        (["x"], "a.jsonl:2 is not an object", "write"),
    ],
)
def test_a_bad_line_is_named_with_its_remedy(tmp_path: Path, line: Any, message: str, hint: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [ROWS[0], line])
    with pytest.raises(InputError) as error:
        read(path)
    assert message in error.value.message
    assert hint in (error.value.hint or "")


def test_files_that_hold_no_examples_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "short.csv").write_text("text,label\nx\n")
    for name, message in (
        ("a.txt", "fields"),
        ("none.jsonl", "no such file"),
        ("empty.jsonl", "no labelled text"),
        ("short.csv", "short.csv:2 has 1 column"),
    ):
        with pytest.raises(InputError, match=message):
            read(str(tmp_path / name))


def examples(*labels: str) -> list[Example]:
    return [Example(f"text {i}", None, label, f"a:{i}") for i, label in enumerate(labels, start=1)]


def test_classes_are_sorted_as_what_they_are() -> None:
    assert classes_of(examples("10", "9", "-1")) == ("-1", "9", "10")
    assert classes_of(examples("10", "9", "b")) == ("10", "9", "b")
    with pytest.raises(InputError, match="all 2 examples have the label 'a'") as error:
        classes_of(examples("a", "a"))
    assert "two classes" in (error.value.hint or "")


def test_the_split_holds_out_a_share_of_each_class_and_does_not_depend_on_the_order() -> None:
    found = examples(*["a"] * 50, *["b"] * 10, *["c"] * 2)
    train, val = split(found, 0.2, seed=0)
    assert sorted(train + val) == sorted(found)
    assert {label: sum(e.label == label for e in val) for label in "abc"} == {"a": 10, "b": 2, "c": 1}
    again = split(found[::-1], 0.2, seed=0)[1]
    assert sorted(again) == sorted(val)
    assert sorted(split(found, 0.2, seed=1)[1]) != sorted(val)
    assert split(found, 0.0, seed=0) == (found, [])


def test_the_same_text_stays_on_one_side() -> None:
    found = examples(*["a", "b"] * 10) * 3
    train, val = split(found, 0.3, seed=0)
    assert len(val) == 3 * 6
    assert not {e.text for e in train} & {e.text for e in val}


def test_a_class_of_one_text_cannot_be_split() -> None:
    found = [*examples("a", "a", "b"), Example("text 3", None, "b", "a:9")]  # the same text twice
    with pytest.raises(InputError, match=r"a:3: the class 'b' has this one text") as error:
        split(found, 0.5, seed=0)
    assert "--val-data" in (error.value.hint or "")


def test_labels_of_the_validation_data_must_be_trained_on(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "a.jsonl", ROWS)
    val = jsonl(tmp_path / "b.jsonl", [ROWS[0], {"text": "x", "label": "prime"}])
    with pytest.raises(InputError, match=r"b.jsonl:2: the label 'prime' is not a class of --data") as error:
        prepare(ClassifyTrainConfig(data=(data,), val_data=val))
    assert "'even', 'odd'" in (error.value.hint or "")


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UsageError, match="--patience needs texts"):
        prepare(ClassifyTrainConfig(data=(data,), val_fraction=0.0, patience=1))
    made = prepare(ClassifyTrainConfig(data=(data,)))
    assert prepare(ClassifyTrainConfig(data=(data,)), expected=made.fingerprint) == made
    jsonl(tmp_path / "a.jsonl", ROWS[::-1])
    with pytest.raises(InputError, match="not what it was"):
        prepare(ClassifyTrainConfig(data=(data,)), expected=made.fingerprint)


def test_contradicting_labels_are_counted() -> None:
    found = [*examples("a", "b", "a"), Example("text 1", None, "b", "x"), Example("text 1", "pair", "b", "x")]
    assert contradictions(found) == 1

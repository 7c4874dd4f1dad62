"""What a corpus takes from its sources: each document once, and no bad files."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genkit.errors import InputError
from genkit.text import formats
from genkit.text.data import Corpus, prepare
from genkit.text.trainconfig import TextTrainConfig

SEPARATOR = "\n<|endoftext|>\n"


def story(number: int) -> str:
    return f"story number {number}, " + "long " * (number % 7) + "end"


def stories(path: Path, *numbers: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(SEPARATOR.join(map(story, numbers)))
    return path


def made(tmp_path: Path, *data: str | Path, **settings: Any) -> Corpus:
    folder = tmp_path / f"tokens-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    settings = {"tokenizer": "char"} | {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    return prepare(TextTrainConfig(data=tuple(map(str, data)), **settings), folder)


def documents(corpus: Corpus, tokens: np.ndarray | None = None) -> list[str]:
    tokens = corpus.train if tokens is None else tokens
    ends = np.flatnonzero(tokens == corpus.tokenizer.eos_id)
    return [corpus.tokenizer.decode(part.tolist()) for part in np.split(tokens, ends + 1)[:-1]]


# ---- repeats -----------------------------------------------------------------


def test_a_document_trains_once(tmp_path: Path) -> None:
    a = stories(tmp_path / "a.txt", *range(40), *range(10))
    b = tmp_path / "b.jsonl"
    b.write_text("\n".join(json.dumps({"text": story(i)}) for i in range(30, 60)))
    corpus = made(tmp_path, a, b, val_fraction=0)
    assert documents(corpus) == [story(i) for i in range(60)]
    assert (corpus.documents, corpus.duplicates) == (60, 20)
    assert corpus.bytes == sum(len(story(i)) for i in range(60))
    assert "60 documents (20 repeated ones left out)" in corpus.line()


def test_keeping_them(tmp_path: Path) -> None:
    a, b = stories(tmp_path / "a.txt", *range(40), *range(10)), stories(tmp_path / "b.txt", *range(5))
    corpus = made(tmp_path, a, b, val_fraction=0.2, keep_duplicates=True)
    train, val = documents(corpus), documents(corpus, corpus.val)
    assert corpus.duplicates == 0
    assert set(train) | set(val) == set(map(story, range(40)))
    assert not set(train) & set(val)
    often = Counter(map(story, [*range(40), *range(10), *range(5)]))
    assert Counter(train) == {text: often[text] for text in train}


def test_one_text_that_is_one_document_is_left_alone(tmp_path: Path) -> None:
    text = "the same line\n" * 100
    (tmp_path / "a.txt").write_text(text)
    corpus = made(tmp_path, tmp_path / "a.txt", val_fraction=0)
    assert documents(corpus) == [text.rstrip("\n")]
    assert corpus.duplicates == 0


def test_long_documents_are_compared_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkit.text.documents.PIECE", 20)
    texts = ["x" * 100 + " one", "x" * 100 + " two", "x" * 100 + " one", "short"]
    (tmp_path / "a.txt").write_text(SEPARATOR.join(texts))
    assert documents(made(tmp_path, tmp_path / "a.txt", val_fraction=0)) == [texts[0], texts[1], "short"]


def test_what_validates_does_not_train(tmp_path: Path) -> None:
    a, val = stories(tmp_path / "a.txt", *range(30)), stories(tmp_path / "val.txt", 3, 99, 7, 3)
    corpus = made(tmp_path, a, val_data=val)
    assert documents(corpus) == [story(i) for i in range(30) if i not in (3, 7)]
    assert documents(corpus, corpus.val) == [story(i) for i in (3, 99, 7, 3)]  # as the user gave it
    assert (corpus.documents, corpus.duplicates) == (32, 2)
    with pytest.raises(InputError, match=r"all the text to train on is also in .*a\.txt"):
        made(tmp_path, a, val_data=a)


# ---- weights -----------------------------------------------------------------


def test_sources_of_one_weight_are_one_segment(tmp_path: Path) -> None:
    paths = [stories(tmp_path / f"{i}.txt", *range(10 * i, 10 * i + 10)) for i in range(4)]
    corpus = made(tmp_path, f"{paths[0]}:0.5", paths[1], f"{paths[2]}:3", paths[3], val_fraction=0)
    assert documents(corpus) == [story(i) for i in (*range(20, 30), *range(10, 20), *range(30, 40), *range(10))]
    (_, first, _), (_, second, _), (_, third, _) = corpus.segments
    assert [(start, weight) for start, _, weight in corpus.segments] == [(0, 3), (first, 1), (second, 0.5)]
    assert third == len(corpus.train)
    assert corpus.tokens_per_epoch == round(3 * first + (second - first) + (third - second) / 2)
    assert f"{corpus.tokens_per_epoch:,} tokens an epoch" in corpus.line()
    assert "an epoch" not in made(tmp_path, *paths).line()


def test_the_heavier_source_keeps_a_document(tmp_path: Path) -> None:
    folder = stories(tmp_path / "all" / "a.txt", *range(30)).parent
    best = stories(tmp_path / "best.txt", 4, 5)
    corpus = made(tmp_path, folder, f"{best}:3", val_fraction=0)
    assert documents(corpus, corpus.train[: corpus.segments[0].stop]) == [story(4), story(5)]
    assert corpus.duplicates == 2
    assert made(tmp_path, folder, f"{folder / 'a.txt'}:3", val_fraction=0).segments[0].weight == 3


def test_validation_comes_from_every_source(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("b" * 1000)
    many = stories(tmp_path / "many.txt", *range(100))
    corpus = made(tmp_path, f"{tmp_path / 'book.txt'}:5", many, val_fraction=0.1)
    val = documents(corpus, corpus.val)
    assert val[0] == "b" * 100
    assert set(val[1:]) < set(map(story, range(100)))
    assert len(val) > 4


def test_batches_follow_the_weights(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 999)
    (tmp_path / "b.txt").write_text("b" * 999)
    corpus = made(tmp_path, f"{tmp_path / 'a.txt'}:3", tmp_path / "b.txt", val_fraction=0)
    x, _ = corpus.batch(block_size=10, batch_size=400, seed=0, step=0)
    a, b = (corpus.tokenizer.encode(letter)[0] for letter in "ab")
    assert (x == a).sum() == 3 * 999
    assert (x == b).sum() == 999


def test_other_weights_are_other_data(tmp_path: Path) -> None:
    path = stories(tmp_path / "a.txt", *range(9))
    (tmp_path / "t").mkdir()
    prepare(TextTrainConfig(data=(f"{path}:2",)), tmp_path / "t")
    prepare(TextTrainConfig(data=(str(path), str(path))), tmp_path / "t")  # the same
    with pytest.raises(InputError, match=r"a\.txt is not what"):
        prepare(TextTrainConfig(data=(str(path),)), tmp_path / "t")
    with pytest.raises(InputError, match="--keep-duplicates is not what"):
        prepare(TextTrainConfig(data=(f"{path}:2",), keep_duplicates=True), tmp_path / "t")


# ---- bad files ---------------------------------------------------------------

BAD = {
    "binary.txt": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
    "latin.txt": (b"good so far\n" + b"x" * 1000 + b"\nf\xfcnf\n", "line 3: byte 0xfc is not UTF-8"),
    "wide.txt": ("text".encode("utf-16"), "UTF-16"),
    "broken.jsonl": (b'{"text": "one"}\n{"text": "tw', "line 2 is not valid JSON"),
    "other.json": (b'{"name": "package", "version": 3}', "no field 'text'"),
    "roles.jsonl": (b'{"messages": [{"role": "cat", "content": "miau"}]}', "line 1: the role 'cat'"),
    "cut.txt.gz": (gzip.compress(os.urandom(9000).hex().encode())[:-900], "cannot be read"),
}


def mixed(tmp_path: Path) -> Path:
    folder = stories(tmp_path / "mixed" / "good.txt", *range(50)).parent
    stories(folder / "zgood.md", *range(50, 60))
    (folder / "empty.txt").touch()
    for name, (data, _) in BAD.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_that_is_named_is_refused(tmp_path: Path, name: str) -> None:
    path = mixed(tmp_path) / name
    with pytest.raises(InputError) as caught:
        made(tmp_path, path)
    assert str(path) in caught.value.message
    assert BAD[name][1] in caught.value.message
    assert "--on-bad-file skip" in str(caught.value.hint)
    with pytest.raises(InputError, match="can be read"):
        made(tmp_path, path, on_bad_file="skip")  # and nothing is left


@pytest.mark.parametrize("mode", ["auto", "skip"])
def test_bad_files_in_a_folder_are_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(formats, "_CHUNK", 100)  # the beginning of a bad file has been surveyed
    corpus = made(tmp_path, mixed(tmp_path), val_fraction=0, on_bad_file=mode)
    assert documents(corpus) == [story(i) for i in range(60)]
    assert (corpus.documents, corpus.duplicates, corpus.conversations) == (60, 0, 0)
    assert len(corpus.skipped) == len(BAD)
    for name, (_, reason) in BAD.items():
        assert any(name in line and reason in line for line in corpus.skipped)
    assert len(corpus.warnings()) == len(BAD)


def test_bad_files_change_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_CHUNK", 100)
    folder = mixed(tmp_path)
    first = made(tmp_path, folder, val_fraction=0.1)
    for name in BAD:
        (folder / name).unlink()
    second = made(tmp_path, folder, val_fraction=0.1)
    assert documents(first) == documents(second)
    assert documents(first, first.val) == documents(second, second.val)


def test_bad_files_in_a_folder_are_refused_on_request(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"binary\.txt is binary"):
        made(tmp_path, mixed(tmp_path), on_bad_file="refuse")


def test_bad_files_that_are_named_are_skipped_on_request(tmp_path: Path) -> None:
    folder = mixed(tmp_path)
    corpus = made(tmp_path, folder / "latin.txt", folder / "zgood.md", on_bad_file="skip", val_fraction=0)
    assert documents(corpus) == [story(i) for i in range(50, 60)]
    assert len(corpus.skipped) == 1
    with pytest.raises(InputError, match=r"no text in .*empty\.txt"):  # it is not bad
        made(tmp_path, folder / "zgood.md", folder / "empty.txt", on_bad_file="skip")
    with pytest.raises(InputError, match=r"no file of .*latin\.txt can be read"):
        made(tmp_path, folder / "zgood.md", val_data=folder / "latin.txt", on_bad_file="skip")


def test_a_folder_of_nothing_but_bad_files(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.txt").write_bytes(b"\0\0")
    (tmp_path / "bad" / "empty.txt").touch()
    with pytest.raises(InputError, match=r"no file of .*bad can be read: .*a\.txt is binary"):
        made(tmp_path, tmp_path / "bad")
    good = stories(tmp_path / "good.txt", *range(9))
    with pytest.raises(InputError, match=r"no file of .*bad can be read"):
        made(tmp_path, good, val_data=tmp_path / "bad")
    (tmp_path / "bad" / "b.txt").write_text("validates")
    corpus = made(tmp_path, good, val_data=tmp_path / "bad")
    assert documents(corpus, corpus.val) == ["validates"]
    assert len(corpus.skipped) == 1


def test_ten_bad_files_are_shown(tmp_path: Path) -> None:
    folder = stories(tmp_path / "many" / "good.txt", *range(5)).parent
    for i in range(25):
        (folder / f"{i:02d}.txt").write_bytes(b"\0")
    warnings = made(tmp_path, folder).warnings()
    assert len(warnings) == 11
    assert warnings[-1] == "left out: 15 bad files more, see meta.json"


@pytest.mark.slow
def test_one_line_of_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    with path.open("wb") as file:
        for _ in range(1000):
            file.write(b"just a few words " * 60_000)
    corpus = made(tmp_path, path, tokenizer="bpe", vocab_size=300, val_fraction=0)
    assert corpus.bytes == 1_020_000_000
    assert corpus.documents == 1
    path.rename(tmp_path / "line.jsonl")
    with pytest.raises(InputError, match=r"line\.jsonl, line 1 is longer than 67108864 characters"):
        made(tmp_path, tmp_path / "line.jsonl")

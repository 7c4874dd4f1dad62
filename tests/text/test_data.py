"""Token files and batches."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genkit.errors import InputError, OutputError
from genkit.files import TEMPORARY
from genkit.text import encoder, formats, learner, readings, tokenfiles
from genkit.text.data import Corpus, prepare
from genkit.text.encoder import Encoder
from genkit.text.learner import Sample
from genkit.text.tokenizer import Tokenizer, train_bpe, train_char
from genkit.text.trainconfig import TextTrainConfig
from genkit.text.wordtable import WordTable

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "and,",
    "then.",
    "It’s",
    "3",
    "o'clock\n",
    "",
    "\n\n“Hello,”",
    "said.",
]


def story(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)).strip("\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokens").mkdir()
    return tmp_path / "tokens"


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(story(i) for i in range(300)))
    return path


def config(*data: Path, **settings: Any) -> TextTrainConfig:
    return TextTrainConfig(data=tuple(map(str, data)), **settings)


def documents(tokens: np.ndarray | None, tokenizer: Tokenizer) -> list[str]:
    assert tokens is not None
    assert tokens[-1] == tokenizer.eos_id
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    return [tokenizer.decode(part.tolist()) for part in np.split(tokens, ends + 1)[:-1]]


# ---- tokenizing --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_every_document_is_there_once_and_ends(stories: Path, folder: Path, kind: str) -> None:
    corpus = prepare(config(stories, tokenizer=kind, vocab_size=300, val_fraction=0.1), folder)
    train, val = documents(corpus.train, corpus.tokenizer), documents(corpus.val, corpus.tokenizer)
    whole = [story(i) for i in range(300)]
    assert [text for text in whole if text in set(train)] == train
    assert [text for text in whole if text in set(val)] == val
    assert not set(train) & set(val)
    assert sorted(train + val) == sorted(whole)
    assert 0.03 < len(val) / 300 < 0.2
    assert corpus.documents == 300
    assert corpus.bytes == sum(len(text.encode()) for text in whole)
    assert corpus.bytes_val == sum(len(text.encode()) for text in val)
    assert (corpus.tokens_train, corpus.tokens_val) == (len(corpus.train), len(corpus.val))
    assert corpus.train.dtype == np.uint16


def test_tokens_are_those_of_each_document(stories: Path, folder: Path) -> None:
    corpus = prepare(config(stories, tokenizer="bpe", vocab_size=400, val_fraction=0), folder)
    expected = [token for i in range(300) for token in [*corpus.tokenizer.encode(story(i)), 0]]
    assert corpus.train.tolist() == expected
    assert corpus.val is None
    assert (corpus.tokens_val, corpus.bytes_val) == (0, 0)


@pytest.mark.parametrize("limit", [1, 50, 1 << 20])
def test_batches_and_caches_do_not_matter(
    stories: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    tokenizer = train_bpe([story(1)], 300)
    expected = [token for i in range(300) for token in [*tokenizer.encode(story(i)), 0]]
    monkeypatch.setattr(tokenfiles, "_BATCH", limit)
    monkeypatch.setattr(encoder, "WordTable", functools.partial(WordTable, bits=3 + limit % 11, tokens=limit))
    assert prepare(config(stories, val_fraction=0), folder, tokenizer).train.tolist() == expected


@pytest.mark.parametrize("count", [3, 30])
def test_long_documents_end_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("genkit.text.documents.PIECE", 100)
    whole = [f"{i} {story(i)}" for i in range(count)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(whole))
    corpus = prepare(config(tmp_path / "a.txt", tokenizer="bpe", vocab_size=300, val_fraction=0), folder)
    assert documents(corpus.train, corpus.tokenizer) == whole
    assert corpus.documents == count


def test_a_single_text_is_split_first_and_last(tmp_path: Path, folder: Path) -> None:
    text = story(0, 1000)
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(config(tmp_path / "a.txt", val_fraction=0.1), folder)
    boundary = int(len(text) * 0.9)
    assert corpus.line().startswith("1 document, 0.0 MB, ")
    assert documents(corpus.train, corpus.tokenizer) == [text[:boundary]]
    assert documents(corpus.val, corpus.tokenizer) == [text[boundary:]]


def test_a_source_that_is_named_again_weighs_more(stories: Path, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "more.txt").write_text("\n<|endoftext|>\n".join(story(i) for i in range(1000, 1060)))
    corpus = prepare(config(tmp_path / "more.txt", stories, tmp_path / "more.txt", val_fraction=0.2), folder)
    train, val = documents(corpus.train, corpus.tokenizer), documents(corpus.val, corpus.tokenizer)
    assert sorted(train + val) == sorted(story(i) for i in (*range(300), *range(1000, 1060)))
    (_, middle, twice), (start, _, once) = corpus.segments
    assert (twice, once, start) == (2, 1, middle)
    assert set(documents(corpus.train[:middle], corpus.tokenizer)) <= {story(i) for i in range(1000, 1060)}
    assert corpus.tokens_per_epoch == len(corpus.train) + middle


def test_validation_data_of_its_own(stories: Path, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.jsonl").write_text('{"text": "Zebra!"}\n{"text": "one"}\n{"text": "one"}')
    corpus = prepare(config(stories, val_data=str(tmp_path / "val"), tokenizer="char"), folder)
    assert documents(corpus.train, corpus.tokenizer) == [story(i) for i in range(300)]
    assert documents(corpus.val, corpus.tokenizer) == ["Zebra!", "one", "one"]  # its characters are known
    assert corpus.bytes_val == 12


# ---- tokenizers --------------------------------------------------------------


def test_auto_takes_characters_for_little_text(
    stories: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    little = prepare(config(stories), folder).tokenizer
    assert little.vocab_size == 2 + len(set("".join(story(i) for i in range(300))))
    monkeypatch.setattr(learner, "CHAR_BYTES", 1000)
    much = prepare(config(stories, vocab_size=300), tmp_path).tokenizer
    assert much.vocab_size == 300


def test_a_tokenizer_from_a_file_is_used(stories: Path, tmp_path: Path, folder: Path) -> None:
    tokenizer = train_bpe([story(1)], 290)
    (tmp_path / "theirs").mkdir()
    tokenizer.save(tmp_path / "theirs")
    corpus = prepare(config(stories, tokenizer=str(tmp_path / "theirs" / "tokenizer.json")), folder)
    assert corpus.tokenizer.to_json() == tokenizer.to_json()
    with pytest.raises(InputError, match="--tokenizer nonsense is no file, nor one of auto, char, bpe"):
        prepare(config(stories, tokenizer="nonsense"), tmp_path)


def test_large_vocabularies_take_four_bytes(tmp_path: Path, folder: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) + "".join(map(chr, range(0x10000, 0x20000)))
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(config(tmp_path / "a.txt", tokenizer="char", val_fraction=0), folder)
    assert corpus.train.dtype == np.uint32
    assert corpus.train.max() == corpus.tokenizer.vocab_size - 1 > 1 << 16
    assert documents(corpus.train, corpus.tokenizer) == [text]


def test_an_encoder_without_word_boundaries_encodes_whole_texts() -> None:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    model = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "b": 2}, unk_token="</s>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encode = Encoder(Tokenizer(model), np.dtype(np.uint16))
    assert [ids.tolist() for ids in encode(["a b", "", "b"])] == [[1, 2], [], [2]]


def test_samples_are_even_and_bounded() -> None:
    sample = Sample(10_000)
    for i in range(10_000):
        sample.add(f"{i:10d}")
        assert sum(map(len, sample.texts)) <= 10_000
    kept = [int(text) for text in sample.texts]
    assert kept == sorted(kept)
    assert 400 < len(kept) <= 1000
    assert 4000 < sum(kept) / len(kept) < 6000
    same = Sample(100)
    for _ in range(1000):
        same.add("always the same")
    assert same.texts


# ---- reuse -------------------------------------------------------------------


def same(a: Corpus, b: Corpus) -> bool:
    return (
        np.array_equal(a.train, b.train)
        and np.array_equal(a.val, b.val)
        and a.tokenizer.to_json() == b.tokenizer.to_json()
        and all(getattr(a, name) == getattr(b, name) for name in ("documents", "bytes", "bytes_val", "fingerprint"))
    )


def test_finished_tokens_are_mapped_again(stories: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(config(stories), folder)
    monkeypatch.setattr("genkit.text.data.build", lambda *args: pytest.fail("tokenized again"))
    assert same(prepare(config(stories, lr=0.5, steps=7), folder), first)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"vocab_size": 300}, "--vocab-size"),
        ({"tokenizer": "bpe"}, "--tokenizer"),
        ({"val_fraction": 0.5}, "--val-fraction"),
        ({"encoding_errors": "replace"}, "--encoding-errors"),
        ({"text_field": "body"}, "--text-field"),
    ],
)
def test_other_settings_are_refused(stories: Path, folder: Path, settings: dict[str, Any], name: str) -> None:
    prepare(config(stories), folder)
    with pytest.raises(InputError, match=name) as caught:
        prepare(config(stories, **settings), folder)
    assert "--force" in str(caught.value.hint)


def test_other_data_is_refused(stories: Path, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "b.txt").write_text("b")
    before = prepare(config(stories, tmp_path / "b.txt"), folder)
    for data in ([stories], [tmp_path / "b.txt", stories], [stories, tmp_path / "b.txt", stories]):
        with pytest.raises(InputError, match="is not what"):
            prepare(config(*data), folder)
    with pytest.raises(InputError, match="is not what"):
        prepare(config(stories, tmp_path / "b.txt"), folder, train_char(["other"]))
    with pytest.raises(InputError, match="is not what"):
        prepare(config(stories, tmp_path / "b.txt", val_data=str(stories)), folder)
    status = stories.stat()
    os.utime(stories, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(InputError, match=r"stories\.txt is not what"):
        prepare(config(stories, tmp_path / "b.txt"), folder)
    os.utime(stories, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert same(prepare(config(stories, tmp_path / "b.txt"), folder), before)
    stories.unlink()
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(config(stories, tmp_path / "b.txt"), folder)


def test_a_resumed_run_gets_the_data_it_had_or_an_error(stories: Path, folder: Path) -> None:
    first = prepare(config(stories), folder)
    kept = np.array(first.train)
    for name in os.listdir(folder):  # RUN/data was deleted
        (folder / name).unlink()
    assert np.array_equal(prepare(config(stories), folder, expected=first.fingerprint).train, kept)
    for name in os.listdir(folder):
        (folder / name).unlink()
    stories.write_text(stories.read_text() + "more")
    with pytest.raises(InputError, match=r"stories\.txt is not what this run was trained on") as caught:
        prepare(config(stories), folder, expected=first.fingerprint)
    assert "--force" in str(caught.value.hint)
    assert os.listdir(folder) == []
    prepare(config(stories), folder)  # somebody else's tokens
    with pytest.raises(InputError, match="is not what this run was trained on"):
        prepare(config(stories), folder, expected=first.fingerprint)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
@pytest.mark.parametrize("cut", [True, False])
def test_damaged_tokens_are_made_again(stories: Path, folder: Path, name: str, cut: bool) -> None:
    first = prepare(config(stories), folder)
    kept = (np.array(first.train), np.array(first.val))
    os.rename(folder / name, folder / "old")  # the map of `first` stays
    if cut and name != "meta.json":
        (folder / name).write_bytes((folder / "old").read_bytes()[:-2])
    again = prepare(config(stories), folder)
    assert np.array_equal(again.train, kept[0])
    assert np.array_equal(again.val, kept[1])


def test_failing_leaves_nothing_behind(stories: Path, folder: Path) -> None:
    (folder.parent / "zz.jsonl").write_text("broken")
    with pytest.raises(InputError, match="line 1"):
        prepare(config(stories, folder.parent / "zz.jsonl"), folder)
    assert list(folder.iterdir()) == []


def test_interrupting_leaves_nothing_behind(stories: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenfiles, "_BATCH", 1000)
    monkeypatch.setattr(readings, "_INTERVAL", 1000)
    monkeypatch.setattr(formats, "_CHUNK", 1000)
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done > 0.75 * total:
            assert len(list(folder.glob(TEMPORARY))) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config(stories), folder, on_progress=stop)
    assert calls > 5
    assert list(folder.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from genkit.text import readings, tokenfiles
from genkit.text.trainconfig import TextTrainConfig
from genkit.text.data import prepare
readings._INTERVAL = tokenfiles._BATCH = 1000
def die(done, total):
    if done > float(sys.argv[3]) * total:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(TextTrainConfig(data=(sys.argv[1],)), Path(sys.argv[2]), on_progress=die)
"""


def test_killed_while_writing_and_started_again(stories: Path, folder: Path, tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, stories, folder, "0.8"], cwd=Path(__file__).parents[2])
    assert process.returncode == -signal.SIGKILL
    assert list(folder.glob(TEMPORARY))
    assert not (folder / "meta.json").exists()
    again = prepare(config(stories), folder)
    assert not list(folder.glob(TEMPORARY))
    (tmp_path / "straight").mkdir()
    assert same(again, prepare(config(stories), tmp_path / "straight"))


def test_meta_comes_last(stories: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, value: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("genkit.text.data.write_json", refuse)
    with pytest.raises(OSError, match="no"):
        prepare(config(stories), folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"train.bin", "val.bin", "tokenizer.json", "tokenizer_config.json"}


def test_progress_runs_from_nothing_to_all(stories: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenfiles, "_BATCH", 1000)
    monkeypatch.setattr(readings, "_INTERVAL", 1000)
    monkeypatch.setattr(formats, "_CHUNK", 1000)
    calls: list[tuple[int, int]] = []
    other = folder.parent / "other.txt"
    other.write_text(story(1000, 5000))
    prepare(config(stories, val_data=str(other)), folder, on_progress=lambda *args: calls.append(args))
    done, totals = [d for d, _ in calls], {t for _, t in calls}
    assert totals == {2 * stories.stat().st_size + 2 * other.stat().st_size}
    assert done == sorted(done)
    assert done[-1] in totals
    assert len(done) > 20


@pytest.mark.parametrize("count", [1, 100])
def test_data_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n<|endoftext|>\n".join(story(i, 6000 // count) for i in range(count)))
    monkeypatch.setattr(tokenfiles, "_BATCH", 1000)
    monkeypatch.setattr(readings, "_INTERVAL", 1000)
    monkeypatch.setattr(formats, "_CHUNK", 1000)

    def append(done: int, total: int) -> None:
        if done > total // 2:
            with path.open("a") as file:
                file.write("\n<|endoftext|>\nlate news")

    with pytest.raises(InputError, match=r"a\.txt changed while it was read"):
        prepare(config(path), folder, on_progress=append)
    assert not (folder / "meta.json").exists()


def test_text_that_is_missing_is_refused(tmp_path: Path, folder: Path, stories: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    for settings in (
        config(tmp_path / "empty.txt"),
        config(stories, tmp_path / "empty.txt"),
        config(stories, val_data=str(tmp_path / "empty.txt")),
    ):
        with pytest.raises(InputError, match=r"no text in .*empty\.txt"):
            prepare(settings, folder)
    with pytest.raises(InputError, match="no text to train on"):
        prepare(config(), folder)


def test_a_folder_that_cannot_be_written(stories: Path, folder: Path) -> None:
    (folder / "train.bin").mkdir()
    with pytest.raises(OutputError, match=r"train\.bin"):
        prepare(config(stories), folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(stories: Path, folder: Path) -> None:
    (folder / "train.bin").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left") as caught:
        prepare(config(stories), folder)
    assert "free some space" in str(caught.value.hint)
    assert not (folder / "meta.json").exists()


def test_the_fingerprint_follows_the_data(stories: Path, folder: Path, tmp_path: Path) -> None:
    prints = []
    for i, settings in enumerate((config(stories), config(stories), config(stories, val_fraction=0.2))):
        (tmp_path / str(i)).mkdir()
        prints.append(prepare(settings, tmp_path / str(i)).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64
    assert json.loads((tmp_path / "0" / "meta.json").read_text())["fingerprint"] == prints[0]


# ---- memory ------------------------------------------------------------------


MEASURED = """
import resource, sys
from pathlib import Path
from genkit.text.trainconfig import TextTrainConfig
from genkit.text.data import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(TextTrainConfig(data=(sys.argv[1],)), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in KB on Linux only")
@pytest.mark.parametrize(
    ("separator", "megabytes"),
    [("\n<|endoftext|>\n", 100), (" ", 100), ("", 10)],
    ids=["documents", "one line", "one word"],
)
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, folder: Path, separator: str, megabytes: int) -> None:
    path = tmp_path / "big.txt"
    with path.open("wb") as file:
        for i in itertools.count():
            text = story(i, 100)
            file.write(((text if separator else "".join(text.split())) + separator).encode())
            if file.tell() > megabytes * 1_000_000:
                break
    command = [sys.executable, "-c", MEASURED, path, folder]
    grown = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True).stdout
    assert int(grown) < 300_000

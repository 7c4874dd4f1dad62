"""Text to be measured, as a stream of token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genkit.errors import InputError
from genkit.text import heldout
from genkit.text.data import prepare
from genkit.text.evalconfig import EvalConfig
from genkit.text.heldout import HeldOut
from genkit.text.losses import IGNORE
from genkit.text.tokenizer import Tokenizer, train_bpe, train_char
from genkit.text.trainconfig import TextTrainConfig

TEXT = "The cat sat on the mat.\n<|endoftext|>\nA größere Katze 🐱.\n\nIt sat.\n"


def read(tokenizer: Tokenizer, *paths: Path, **more: Any) -> tuple[list[int], HeldOut]:
    text = HeldOut(EvalConfig(data=tuple(map(str, paths)), **more), tokenizer)
    ids = []
    for chunk, targets in text:
        ids += chunk.tolist()
        np.testing.assert_array_equal(targets, chunk)
    return ids, text


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


@pytest.mark.parametrize("group", [1, 30, 1 << 18])
@pytest.mark.parametrize("tokenizer", [train_char([TEXT]), train_bpe([TEXT * 9], 300)], ids=["char", "bpe"])
def test_the_tokens_are_those_of_a_training_corpus(
    tokenizer: Tokenizer, group: int, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heldout, "_GROUP", group)
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": f"The cat {i}"}) + "\n" for i in range(9)))
    ids, text = read(tokenizer, book, tmp_path / "more.jsonl")
    (tmp_path / "corpus").mkdir()
    config = TextTrainConfig(data=(str(book), str(tmp_path / "more.jsonl")), val_fraction=0.0)
    corpus = prepare(config, tmp_path / "corpus", tokenizer)
    assert ids == corpus.train.tolist()
    assert (text.documents, text.ends, text.bytes) == (corpus.documents, 11, corpus.bytes)
    assert text.tokens == len(ids)
    assert text.fraction == 1.0


def test_a_document_of_many_pieces_ends_once(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("é word " * 100_000)
    tokenizer = train_char(["é word"])
    ids, text = read(tokenizer, tmp_path / "long.txt")
    assert (text.documents, text.ends, ids.count(tokenizer.eos_id)) == (1, 1, 1)
    assert (text.tokens, text.bytes) == (700_001, 800_000)


@pytest.mark.parametrize("most", range(1, 60))
def test_the_text_is_cut_where_the_tokens_are_full(book: Path, most: int) -> None:
    tokenizer = train_bpe([], 257)  # a token a byte
    ids, text = read(tokenizer, book, max_tokens=most)
    everything = [*tokenizer.encode("The cat sat on the mat."), tokenizer.eos_id]
    everything += [*tokenizer.encode("A größere Katze 🐱.\n\nIt sat."), tokenizer.eos_id]
    assert ids == everything[: len(ids)]
    whole = min(most, len(everything))
    assert whole - 3 <= len(ids) <= whole  # no character is cut in two
    assert text.tokens == len(ids)
    assert text.bytes == len(ids) - ids.count(tokenizer.eos_id)
    assert text.documents == 1 + (len(ids) > 24)
    assert text.ends == ids.count(tokenizer.eos_id)


def test_unknown_characters_are_counted(book: Path) -> None:
    tokenizer = train_char(["The cat sat on the mat."])
    ids, text = read(tokenizer, book)
    assert text.unknown == sum(c not in "The cat sat on the mat." for c in "A größere Katze 🐱.\n\nIt sat.")
    assert ids.count(tokenizer.encode("ß")[0]) == text.unknown
    assert train_bpe([], 257).unknown_id is None


def test_the_share_of_the_data_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "_GROUP", 1000)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The cat sat.\n<|endoftext|>\n" * 40_000)  # 1 MB: several reads
    text = HeldOut(EvalConfig(data=(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))), train_char(["The cat sat."]))
    shares = [text.fraction for _ in text]
    assert shares == sorted(shares)
    assert {round(4 * share) for share in shares} == {0, 1, 2, 3, 4}
    assert shares[-1] == 1.0


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat.\n<|endoftext|>\n" * 40_000)
    chunks = [len(ids) for ids, _ in HeldOut(EvalConfig(data=(str(tmp_path / "a.txt"),)), train_char(["x"]))]
    assert sum(chunks) == 40_000 * 13
    assert max(chunks) < 2 * heldout._GROUP


CHATS = [
    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cät."},
                  {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]},
    {"text": "The cat sat."},
    {"instruction": "Say cat.", "output": "cat"},
]  # fmt: skip


def test_of_conversations_the_answers_count(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    tokenizer = train_bpe([], 257)  # a token a byte
    text = HeldOut(EvalConfig(data=(str(tmp_path / "chats.jsonl"),)), tokenizer)
    ((ids, targets),) = list(text)
    (tmp_path / "corpus").mkdir()
    config = TextTrainConfig(data=(str(tmp_path / "chats.jsonl"),), val_fraction=0.0)
    corpus = prepare(config, tmp_path / "corpus", tokenizer)
    assert corpus.train_mask is not None
    np.testing.assert_array_equal(ids, corpus.train)
    np.testing.assert_array_equal(targets, np.where(corpus.train_mask, ids, IGNORE))
    answers = tokenizer.decode(targets[targets != IGNORE].tolist())
    assert answers == "A cät.Here.The cat sat.cat"
    assert (text.documents, text.conversations, text.ends) == (3, 2, 4)
    assert text.bytes == len(answers.encode())
    assert text.tokens == text.bytes + text.ends


@pytest.mark.parametrize("most", [1, 30, 90, 110, 150, 1000])
def test_a_conversation_is_not_cut(tmp_path: Path, most: int) -> None:
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    tokenizer = train_bpe([], 257)
    everything, found = (
        [token for ids, _ in HeldOut(EvalConfig(data=(str(tmp_path / "chats.jsonl"),), max_tokens=n), tokenizer)
         for token in ids.tolist()]
        for n in (10_000, most)
    )  # fmt: skip
    ends = [place + 1 for place, token in enumerate(everything) if token == tokenizer.eos_id]
    assert found == everything[: len(found)]
    assert len(found) <= most
    first, second = next(end for end in ends if everything[end : end + 3] == tokenizer.encode("The")), ends[-2]
    assert len(found) in {0, first, len(everything)} or first <= len(found) <= second


def test_data_without_text_is_named(book: Path, tmp_path: Path) -> None:
    tokenizer = train_char([TEXT])
    (tmp_path / "empty.txt").write_text("\n<|endoftext|>\n\n")
    for paths in ((tmp_path / "empty.txt",), (book, tmp_path / "empty.txt")):
        with pytest.raises(InputError, match=r"there is no text in .*empty\.txt"):
            read(tokenizer, *paths)
    with pytest.raises(InputError, match="does not exist"):
        read(tokenizer, book, tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read(tokenizer, tmp_path / "latin.txt")
    ids, _ = read(tokenizer, tmp_path / "latin.txt", encoding_errors="replace")
    assert len(ids) == 7
    np.testing.assert_equal(ids[-1], tokenizer.eos_id)

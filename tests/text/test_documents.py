"""Reading: every format, every compression, and every way in which a file can be bad."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from genkit.errors import InputError
from genkit.text import documents, formats
from genkit.text.documents import iter_documents, iter_pieces, list_files


def zst(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.compress(data))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst,
}  # fmt: skip


def read(path: Path, data: bytes | str, **options: str) -> list[str]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(iter_documents([path], **options))


def refused(path: Path, data: bytes | str, **options: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path, data, **options)
    assert str(path) in caught.value.message
    return caught.value


# ---- text --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("one", ["one"]),
        ("\n\none\n\ntwo\n\n", ["one\n\ntwo"]),
        ("one\n<|endoftext|>\ntwo\n<|endoftext|>\n", ["one", "two"]),
        ("one\n<|endoftext|>", ["one"]),
        ("<|endoftext|>\none\n\n<|endoftext|>\n\n<|endoftext|>\n  two", ["one", "  two"]),
        ("one <|endoftext|>\n<|endoftext|> two\n", ["one <|endoftext|>\n<|endoftext|> two"]),
        ("one\n<|endoftext|", ["one\n<|endoftext|"]),
        ("12345678901234<|endoftext|>\ntwo", ["12345678901234<|endoftext|>\ntwo"]),
        ("a\r\nb\rc\r\n<|endoftext|>\r\nd", ["a\nb\nc", "d"]),
        ("\ufeffone\ufeff", ["one\ufeff"]),
        ("", []),
        (" \n\t\n", []),
        ("a\u2028b\x85c\x0cd", ["a\u2028b\x85c\x0cd"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 7, 14, 21, 1 << 18])
def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, expected: list[str], chunk: int) -> None:
    monkeypatch.setattr(formats, "_CHUNK", chunk)
    assert read(tmp_path / "a.txt", data) == expected


@pytest.mark.parametrize("piece", [4, 10, 100])
def test_long_documents_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    text = "Once upon a time\nthere was\n\na cat. " * 5 + "x" * 50 + "\n" * 50 + "end"
    path = tmp_path / "a.txt"
    path.write_text(f"\n\n{text}\n\n<|endoftext|>\nshort\n<|endoftext|>\n\n{text}")
    monkeypatch.setattr(documents, "PIECE", piece)
    for chunk in (1, 9, 1 << 18):
        monkeypatch.setattr(formats, "_CHUNK", chunk)
        pieces = list(iter_pieces([path]))
        assert all(0 < len(p.text) <= piece for p in pieces)
        assert [p.first for p in pieces] == [True, *(p.last for p in pieces[:-1])]
        assert pieces[-1].last
        assert list(iter_documents([path])) == [text, "short", text]
        # the same document is cut alike wherever it lies
        starts = [i for i, p in enumerate(pieces) if p.first]
        assert [p.text for p in pieces[: starts[1]]] == [p.text for p in pieces[starts[2] :]]


def test_the_last_piece_is_marked_also_when_only_line_ends_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE", 4)
    (tmp_path / "a.txt").write_text("abcd" + "\n" * 9 + "<|endoftext|>\nz")
    pieces = [(p.text, p.first, p.last) for p in iter_pieces([tmp_path / "a.txt"])]
    assert "".join(text for text, *_ in pieces).rstrip("z").rstrip("\n") == "abcd"
    assert [p[0] for p in pieces if p[2]][-1] == "z"
    assert sum(first for _, first, _ in pieces) == sum(last for *_, last in pieces) == 2


def test_one_endless_line_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"word " * 4_000_000)
    tracemalloc.start()
    size = sum(len(piece.text) for piece in iter_pieces([path]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 20_000_000
    assert peak < 4_000_000


def test_positions_end_at_the_size_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 1000)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(os.urandom(500).hex().encode()))
    (tmp_path / "c.txt").write_bytes(b"")
    files = list_files([tmp_path])
    positions = [piece.position for piece in iter_pieces(files)]
    assert positions == [1000, 1000 + files[1].stat().st_size]


# ---- records -----------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    data = '{"text": "one\\n", "n": 1}\n\n"two"\n{"text": null}\r\n{"text": ""}\n{"text": "3\\u00e9\\ud83d\\ude00"}'
    assert read(tmp_path / "a.jsonl", data) == ["one", "two", "3é😀"]
    assert read(tmp_path / "a.JSONL", '{"story": "one"}', text_field="story") == ["one"]
    assert read(tmp_path / "a.jsonl", '{"text": "a\u2028b"}') == ["a\u2028b"]


def test_json(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", '[{"text": "one"},\n "two"]') == ["one", "two"]
    assert read(tmp_path / "a.json", '{"text": "one"}') == ["one"]
    assert read(tmp_path / "a.json", "[]") == []


def test_csv_and_tsv(tmp_path: Path) -> None:
    data = 'id,text\n1,"one, ""1""\nand more"\n2,two\n3,\n4\n'
    assert read(tmp_path / "a.csv", data) == ['one, "1"\nand more', "two"]
    assert read(tmp_path / "a.tsv", "id\ttext\n1\tone, two\n") == ["one, two"]
    long = "x" * 500_000  # beyond the csv module's own limit
    assert read(tmp_path / "a.csv", f"text\n{long}\n") == [long]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(3000)]
    parquet.write_table(pyarrow.table({"n": [1] * 3000, "text": texts}), path, row_group_size=1000)
    assert list(iter_documents([path])) == texts
    with pytest.raises(InputError, match=r"no field 'body'.*n, text"):
        list(iter_documents([path], text_field="body"))
    with pytest.raises(InputError, match="row 1: the text is int"):
        list(iter_documents([path], text_field="n"))
    refused(path, path.read_bytes()[:-100])
    refused(path, "text")


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize(("name", "data"), [("a.txt", "one\n<|endoftext|>\ntwo"), ("a.jsonl", '"one"\n"two"')])
def test_compressed(tmp_path: Path, suffix: str, name: str, data: str) -> None:
    assert read(tmp_path / (name + suffix), COMPRESSORS[suffix](data.encode())) == ["one", "two"]


@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_compressed_parquet(tmp_path: Path, suffix: str) -> None:
    """Parquet is read from its end, which a stream of zstandard frames cannot be."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "plain"
    parquet.write_table(pyarrow.table({"text": [f"row {i}" for i in range(3000)]}), path, row_group_size=500)
    data = COMPRESSORS[suffix](path.read_bytes()) if suffix else path.read_bytes()
    assert read(tmp_path / f"a.parquet{suffix}", data) == [f"row {i}" for i in range(3000)]


def test_zstandard_frames_follow_one_another(tmp_path: Path) -> None:
    assert read(tmp_path / "a.zst", zst(b"one ") + zst(b"two " * 10_000)) == ["one " + "two " * 10_000]


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name in (("zstandard", "a.txt.zst"), ("pyarrow", "a.parquet")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=f"needs the {package} package") as caught:
            list(iter_documents([tmp_path / name]))
        assert caught.value.hint == f"pip install {package}"


# ---- folders -----------------------------------------------------------------


def test_folders_are_read_in_order_and_without_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b.jsonl.xz", "c.TXT", ".hidden.txt", ".git/x.txt", "d.py", "e.gz", "f.txt.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    names = [str(path.relative_to(tmp_path)) for path in list_files([tmp_path])]
    assert names == ["a/b.jsonl.xz", "a/z.md", "b.txt", "c.TXT", "f.txt.gz"]


def test_a_path_named_twice_is_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "odd.name").write_text("any name will do for a file that is named")
    assert list(iter_documents([tmp_path / "a.txt", tmp_path, tmp_path / "a.txt"])) == ["one"] * 3
    assert len(list(iter_documents([tmp_path / "odd.name"]))) == 1


def test_names_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"na\xefve \xf0\x9f\x98\x80.txt")
    (tmp_path / name).write_text("one")
    assert list(iter_documents([tmp_path])) == ["one"]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("none.txt", "does not exist"),
        ("empty", "holds no text files"),
        ("code", "holds no text files"),
        ("pipe", "is not a regular file or folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            list_files([tmp_path / name])
        assert str(tmp_path / name) in caught.value.message


# ---- bad files ---------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
def test_bytes_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(formats, "_CHUNK", chunk)
    data = "eins\nzwei\nfünf".encode("latin-1")
    error = refused(tmp_path / "a.txt", data)
    assert "line 3: byte 0xfc is not UTF-8" in error.message
    assert "--encoding-errors replace" in str(error.hint)
    assert read(tmp_path / "a.txt", data, errors="replace") == ["eins\nzwei\nf\ufffdnf"]
    assert "line 1" in refused(tmp_path / "a.txt", b"cut off \xf0\x9f").message


def test_utf16_and_binary_files(tmp_path: Path) -> None:
    assert "iconv -f UTF-16" in str(refused(tmp_path / "a.txt", "text".encode("utf-16")).hint)
    for data in (b"PK\x03\x04\0\0", b"\x89PNG\r\n\x1a\n\0\0\0", b"text\0more"):
        assert "binary" in refused(tmp_path / "a.txt", data).message


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_broken_compression(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESSORS[suffix](os.urandom(300_000).hex().encode())
    refused(tmp_path / f"a.txt{suffix}", whole[: len(whole) // 2])
    refused(tmp_path / f"a.txt{suffix}", whole[:-1])
    refused(tmp_path / f"a.txt{suffix}", "just text")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '"one"\n{"text": "two"\n', "line 2 is not valid JSON"),
        ("a.jsonl", '"one"\n\n{"body": "two", "n": 1}', "line 3 has no field 'text'"),
        ("a.jsonl", '{"text": 5}', "line 1: the text is int"),
        ("a.jsonl", "[1]", "line 1: the text is list"),
        ("a.jsonl", '"one"\n"\\ud800"', r"line 2: half a surrogate pair, \\ud800"),
        ("a.jsonl", "[" * 100_000, "line 1 is not valid JSON"),
        ("a.json", '{"text": "a"}\n{"text": "b"}', "is not valid JSON"),
        ("a.json", '["one", {}]', "record 2 has no field"),
        ("a.json", "", "is not valid JSON"),
        ("a.csv", "id,body\n1,one\n", "line 2 has no field 'text'"),
    ],
)
def test_bad_records(tmp_path: Path, name: str, data: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, data)


def test_remedies_for_bad_records(tmp_path: Path) -> None:
    assert "body, n" in str(refused(tmp_path / "a.jsonl", '{"body": "x", "n": 1}').hint)
    assert ".jsonl" in str(refused(tmp_path / "a.json", '{"text": "a"}\n{"text": "b"}').hint)
    assert read(tmp_path / "a.jsonl", '"a\\ud800b"', errors="replace") == ["a\ufffdb"]


def test_records_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_MAX_RECORD", 1000)
    monkeypatch.setattr(formats, "_CHUNK", 100)
    assert "line 2 is longer" in refused(tmp_path / "a.jsonl", '"one"\n"' + "x" * 5000).message
    assert "too long for one JSON value" in refused(tmp_path / "a.json", '"' + "x" * 5000).message
    quoted = 'text\n"' + "line\n" * 1000
    assert "not valid CSV" in refused(tmp_path / "a.csv", quoted).message

"""Files that are not what they say: refused in one line, and never the end of the process."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit.errors import InputError
from genkit.text.engines.trial import try_once
from genkit.text.gguf.check import TYPES, check_gguf, fitting_context
from genkit.text.gguf.convert import write_gguf


@pytest.fixture(scope="module")
def sound(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    write_gguf(tiny_text, path, "fp32")
    return path


def changed(data: bytes, key: str, code: str, value: float) -> bytes:
    """`data` with another value of a setting."""
    name = struct.pack("<Q", len(key)) + key.encode()
    at = data.index(name) + len(name) + 4
    return data[:at] + struct.pack("<" + code, value) + data[at + struct.calcsize(code) :]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(tensors: int, settings: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, settings)


MALFORMED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is empty"),
    "magic": (lambda data: b"GGML" + data[4:], "is not a GGUF file"),
    "safetensors": (lambda data: struct.pack("<Q", 2) + b"{}" + bytes(40), "is not a GGUF file"),
    "big-endian": (lambda data: b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(99), "big-endian"),
    "version": (lambda data: head(0, 0, 9) + bytes(99), "unknown version 9"),
    "four bytes": (lambda data: b"GGUF", "damaged"),
    "half a header": (lambda data: data[: len(data) // 99], "damaged"),
    "half the tensors": (lambda data: data[: len(data) // 2], "lies at byte"),
    "many settings": (lambda data: head(0, 2**63) + bytes(99), "9223372036854775808 settings"),
    "many tensors": (lambda data: head(2**63, 0) + bytes(99), "9223372036854775808 tensors"),
    "long key": (lambda data: head(0, 1) + struct.pack("<Q", 2**64 - 1) + bytes(99), "ends inside"),
    "long list": (lambda data: head(0, 1) + text("a") + struct.pack("<IIQ", 9, 4, 2**62) + bytes(99), "a list of"),
    "list of lists": (lambda data: head(0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(99), "unknown type 9"),
    "alignment": (lambda data: head(0, 1) + text("general.alignment") + struct.pack("<II", 4, 0), "alignment of 0"),
    "offset": (
        lambda data: head(1, 0) + text("a") + struct.pack("<IQIQ", 1, 8, 0, 1 << 40) + bytes(99),
        "lies at byte",
    ),
    "too large": (
        lambda data: head(1, 0) + text("a") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0) + bytes(99),
        "has the shape",
    ),
    "twice": (lambda data: head(0, 2) + 2 * (text("a") + struct.pack("<IB", 0, 1)) + bytes(99), "twice"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(name: str, sound: Path, tmp_path: Path, genkit: Callable[..., Any]) -> None:
    damage, reason = MALFORMED[name]
    (tmp_path / "x.gguf").write_bytes(damage(sound.read_bytes()))
    with pytest.raises(InputError, match=reason):
        check_gguf(tmp_path / "x.gguf")
    done = genkit("text", "-m", "x.gguf", "a")
    assert (done.code, done.out, done.err.count("\n")) == (3, b"", 1)
    assert "x.gguf" in done.err


def test_what_is_no_file_is_refused(tmp_path: Path, run_genkit: Callable[..., Any]) -> None:
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    for name in ("folder.gguf", "fifo.gguf", "loop.gguf", "none.gguf"):
        done = run_genkit("text", "-m", name, "a")
        assert (done.code, done.out, done.err.count("\n")) == (3, b"", 1), done.err


def test_the_header_says_what_was_written(sound: Path) -> None:
    header = check_gguf(sound)
    assert header.fields["general.architecture"] == "qwen3"
    assert header.fields["qwen3.context_length"] == 64
    assert header.tensors["blk.1.ffn_up.weight"] == ((32, 64), "F32")


def test_sizes_of_tensor_types_are_those_of_the_format() -> None:
    import gguf

    sizes = gguf.GGML_QUANT_SIZES
    for number, (name, block, width) in TYPES.items():
        if number in {int(kind) for kind in sizes}:
            kind = gguf.GGMLQuantizationType(number)
            assert (kind.name, *sizes[kind]) == (name, block, width)


def test_a_long_context_is_cut_to_the_memory(sound: Path) -> None:
    header = check_gguf(sound)
    a_token = 2 * 2 * 2 * 1 * 16  # fp16 keys and values of two layers of one head of 16
    header.fields["qwen3.context_length"] = 1 << 31
    assert fitting_context(sound, header, 4, a_token * 4 * 1000) == 1000
    assert fitting_context(sound, header, 1, a_token * 4 * 1000) == 4000
    header.fields["qwen3.context_length"] = 64
    assert fitting_context(sound, header, 4, a_token * 4 * 1000) == 64
    del header.fields["qwen3.context_length"]
    with pytest.raises(InputError, match="context"):
        fitting_context(sound, header, 1, 1)


@pytest.mark.parametrize(
    ("key", "code", "value", "reason"),
    [
        ("qwen3.attention.head_count", "I", 3, "cannot load|crashes"),
        ("qwen3.embedding_length", "I", 2**32 - 1, "cannot load|crashes"),
        ("qwen3.block_count", "I", 2**31, "cannot load|crashes"),
        ("qwen3.rope.dimension_count", "I", 0, "crashes"),
        ("qwen3.context_length", "I", 2**32 - 1, "crashes"),
        ("qwen3.rope.freq_base", "f", float("nan"), "not finite"),
    ],
)
def test_settings_that_llama_cpp_does_not_survive(
    key: str, code: str, value: float, reason: str, sound: Path, tmp_path: Path, run_genkit: Callable[..., Any]
) -> None:
    (tmp_path / "x.gguf").write_bytes(changed(sound.read_bytes(), key, code, value))
    check_gguf(tmp_path / "x.gguf")
    with pytest.raises(InputError, match=reason):
        try_once(tmp_path / "x.gguf")
    done = run_genkit("text", "-m", "x.gguf", "a")
    assert (done.code, done.out, done.err.count("\n")) == (3, b"", 1), done.err


def test_a_file_that_went_well_is_not_tried_again(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genkit.text.engines import trial

    trial.try_once(sound)
    monkeypatch.setattr(trial, "_try", lambda *_: pytest.fail("tried again"))
    trial.try_once(sound)


def fuzz(sound: Path, tmp_path: Path, run_genkit: Callable[..., Any], seed: int, variants: int) -> None:
    """Flip bytes of the header; those that pass the check must not end genkit by a signal."""
    data = sound.read_bytes()
    end = data.rindex(b"token_embd.weight") + 64
    rng = random.Random(seed)
    tried = 0
    while tried < variants:
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(end)
            damaged[at] = rng.choice([rng.randrange(256), damaged[at] ^ (1 << rng.randrange(8)), 0, 255])
        (tmp_path / "x.gguf").write_bytes(damaged)
        try:
            check_gguf(tmp_path / "x.gguf")
        except InputError:
            continue
        tried += 1
        done = run_genkit("text", "-m", "x.gguf", "The cat", "--max-new-tokens", "9", "--seed", "1", "-q")
        assert done.code in (0, 3), (seed, tried, done)
        assert done.err.count("\n") == (done.code == 3), (seed, tried, done)


def test_flipped_bytes_never_end_the_process(sound: Path, tmp_path: Path, run_genkit: Callable[..., Any]) -> None:
    fuzz(sound, tmp_path, run_genkit, 0, 15)


@pytest.mark.slow
def test_many_flipped_bytes_never_end_the_process(sound: Path, tmp_path: Path, run_genkit: Callable[..., Any]) -> None:
    fuzz(sound, tmp_path, run_genkit, 1, 300)

"""The two ways in which a GGUF of ours states its vocabulary, from a `tokenizer.json`."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from genkit.errors import InputError
from genkit.text.config import GPTConfig
from genkit.text.constraints.bytegrammar import byte_text

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types of GGUF

# the patterns that llama.cpp knows, by its name for them; ours is the first
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {rf"{_WORDS}|\p{{N}}|{_REST}": "qwen2", rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe"}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# names in which llama.cpp sees the end of a text, whatever the model says of them
_TELLING = re.compile(rb"(?s).*(<.+[>]|\[[A-Z]+\])|\[e~\[")
_NEVER_UTF8 = frozenset((0x00, 0xC0, 0xC1, *range(0xF5, 0x100)))


class Unsupported(InputError):
    """A sound model that GGUF, or genkit's writer of it, cannot hold; torch runs it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "--engine torch runs it, and an export to hf keeps it")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says about tokens, by id."""

    texts: list[bytes]
    types: list[int]
    pre: str
    merges: list[str] = field(default_factory=list)


def byte_vocabulary(tokenizer: dict[str, Any], config: GPTConfig) -> Vocabulary:
    """Each token's bytes as `byte_text` states them, as control tokens; those that stand for no text are unused.

    Bytes that are in no UTF-8 text stay out as well, so that no grammar lets them pass.

    Raises:
        Unsupported: the bytes of this tokenizer's tokens are not known.
        InputError: its ids do not fit the model.
    """
    pieces = token_pieces(tokenizer, config)
    taken: set[bytes] = set()
    texts, types = [], []
    for index, piece in enumerate(pieces):
        usable = piece and piece not in taken and not _TELLING.fullmatch(piece) and not _NEVER_UTF8.intersection(piece)
        texts.append(byte_text(piece) if usable and piece else b"\xff%d" % index)
        taken.add(piece or b"")
        types.append(CONTROL if usable else UNUSED)
    return Vocabulary(texts, types, "default")


def tokenizer_vocabulary(tokenizer: dict[str, Any], config: GPTConfig) -> Vocabulary:
    """The tokenizer as llama.cpp builds it: byte-level BPE, or one token a character.

    Raises:
        Unsupported: another kind of tokenizer, or a split pattern that llama.cpp does not have.
    """
    model, added = _model(tokenizer, config), tokenizer.get("added_tokens") or []
    texts = [b"[PAD%d]" % i for i in range(config.vocab_size)]
    types = [UNUSED] * config.vocab_size
    pieces = token_pieces(tokenizer, config)
    for token, index in model["vocab"].items():
        texts[index], types[index] = token.encode(), NORMAL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    pre = _pre(tokenizer)
    if pre is None:
        pre, merges = "gpt-2", []
        for index, piece in enumerate(pieces):
            if piece:
                symbols = [_byte_characters()[byte] for byte in piece]
                texts[index] = "".join(symbols).encode()
                merges += ["".join(symbols[:i]) + " " + symbols[i] for i in range(1, len(symbols))]
        merges = list(dict.fromkeys(merges))
    for token in added:
        texts[token["id"]] = token["content"].encode()
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    return Vocabulary(texts, types, pre, merges)


def _model(tokenizer: dict[str, Any], config: GPTConfig) -> dict[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise Unsupported(f"the tokenizer is {kind or 'of no kind'}, and genkit writes GGUF with BPE alone")
    ids = [*model["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens") or [])]
    if not all(type(i) is int and 0 <= i < config.vocab_size for i in ids):
        raise InputError(f"the tokenizer has ids beyond the model's vocabulary of {config.vocab_size:,}")
    return model


def token_pieces(tokenizer: dict[str, Any], config: GPTConfig) -> list[bytes | None]:
    """The bytes that each id adds to a text; None for special tokens and ids without a token."""
    model = _model(tokenizer, config)
    decoders = _parts(tokenizer.get("decoder"), "decoders")
    pieces: list[bytes | None] = [None] * config.vocab_size
    byte_level = any(part.get("type") == "ByteLevel" for part in decoders)
    if not byte_level and {part.get("type") for part in decoders} - {"Fuse", "Replace", "ByteFallback", "Strip"}:
        raise Unsupported("the tokenizer's decoder is of a kind that genkit cannot write as GGUF")
    replaced = [(p["pattern"].get("String"), p["content"]) for p in decoders if p.get("type") == "Replace"]
    for token, index in model["vocab"].items():
        if byte_level:
            pieces[index] = from_byte_level(token)
        elif model.get("byte_fallback") and (match := _BYTE.fullmatch(token)):
            pieces[index] = bytes([int(match[1], 16)])
        else:
            for old, new in replaced:
                token = token.replace(old, new) if old else token
            pieces[index] = token.encode("utf-8", "replace")
    if model.get("unk_token") in model["vocab"]:
        pieces[model["vocab"][model["unk_token"]]] = None
    for token in tokenizer.get("added_tokens") or []:
        pieces[token["id"]] = None if token.get("special") else token["content"].encode()
    return pieces


def _pre(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for how words are split off; None for one token a character."""
    parts = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    normalizers = {part.get("type") for part in _parts(tokenizer.get("normalizer"), "normalizers")}
    if not parts and not tokenizer["model"].get("merges") and not normalizers:
        return None
    kinds = [part.get("type") for part in parts]
    plain = not any(part.get("add_prefix_space") for part in parts) and normalizers <= {"NFC"}
    if plain and kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if plain and kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        pre = _SPLITS.get(parts[0]["pattern"].get("Regex", ""))
        if pre and parts[0].get("behavior") == "Isolated" and not parts[0].get("invert"):
            return pre
    raise Unsupported("the tokenizer splits words in a way that llama.cpp does not know")


def _parts(part: Any, key: str) -> Sequence[dict[str, Any]]:
    """A component of a tokenizer, or those of its sequence."""
    if not isinstance(part, dict):
        return []
    return part[key] if part.get("type") == "Sequence" else [part]


@functools.cache
def _byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_byte_characters())}


def from_byte_level(token: str) -> bytes:
    """The bytes that a token of byte-level BPE stands for."""
    table = _bytes_of_characters()
    return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode("utf-8", "replace")

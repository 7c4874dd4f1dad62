"""Tokenizers of any architecture, with the interface of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG
from genkit.text.gguf.vocabulary import from_byte_level
from genkit.text.models.hub import load_tokenizer, quiet_transformers
from genkit.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # how sentencepiece writes a blank


class HubTokenizer(Tokenizer):
    """A tokenizer of `transformers` that the `tokenizers` library runs.

    Attributes:
        model_max_length: tokens that its model sees, as `transformers` has it.
    """

    model_max_length: int

    def prompt(self, text: str, *, specials: bool) -> list[int]:
        """Token ids of a text with the special tokens that the tokenizer puts around one.

        Args:
            specials: the names of special tokens in the text mean the tokens.
        """
        self._model.encode_special_tokens = not specials
        try:
            return self.encode_framed([text])[0]
        finally:
            self._model.encode_special_tokens = True

    def pieces(self, size: int) -> list[bytes | None]:
        """The bytes that each of `size` ids adds to a text; None for special tokens and ids without one."""
        special = set(self.specials)
        of_bytes = '"ByteLevel"' in json.dumps(json.loads(self.to_json())["decoder"])
        found: list[bytes | None] = [None] * size
        for token, index in self._model.get_vocab(with_added_tokens=True).items():
            if index < size and token not in special:
                found[index] = from_byte_level(token) if of_bytes else _piece(token)
        return found


class PlainTokenizer(HubTokenizer):
    """A tokenizer that `transformers` runs in Python, such as Marian's with its two vocabularies."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        vocab: dict[str, int] = hub.get_vocab()
        self.eos, self.eos_id = hub.eos_token, hub.eos_token_id
        self.bos = hub.bos_token or self.eos
        self.bos_id = vocab[self.bos]
        self.vocab_size = max(vocab.values()) + 1
        self.chat_template = hub.chat_template

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(text, add_special_tokens=False) for text in texts]

    def encode_framed(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(text) for text in texts]

    def prompt(self, text: str, *, specials: bool) -> list[int]:
        return self._ids(text, split_special_tokens=not specials)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._hub.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, size: int) -> list[bytes | None]:
        special = set(self.specials)
        found: list[bytes | None] = [None] * size
        for token, index in self._hub.get_vocab().items():
            if index < size and token not in special:
                found[index] = _piece(token)
        return found

    @property
    def specials(self) -> list[str]:
        return list(self._hub.all_special_tokens)

    @property
    def unknown_id(self) -> int | None:
        found: int | None = self._hub.unk_token_id
        return found

    @property
    def splits_at_words(self) -> bool:
        return False

    def _ids(self, text: str, **how: bool) -> list[int]:
        with quiet_transformers():
            ids: list[int] = self._hub(text, verbose=False, **how)["input_ids"]
        return ids


def load_hub_tokenizer(folder: Path) -> HubTokenizer:
    """The tokenizer in a model directory, from any form that `transformers` reads.

    Raises:
        InputError: there is none, or no token ends a text.
    """
    hub = load_tokenizer(folder)
    tokenizer = _fast(hub, folder) if hub.is_fast else _plain(hub, folder)
    tokenizer.model_max_length = hub.model_max_length
    return tokenizer


def _plain(hub: Any, folder: Path) -> HubTokenizer:
    if hub.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer names no end-of-text token", "name one as its eos_token")
    return PlainTokenizer(hub)


def _fast(hub: Any, folder: Path) -> HubTokenizer:
    eos = hub.eos_token or _named_by_model(hub, folder)
    try:
        tokenizer = HubTokenizer(hub.backend_tokenizer, eos, hub.bos_token)
    except InputError as error:
        raise InputError(f"{folder}: {error.message}", error.hint) from error
    tokenizer.chat_template = hub.chat_template if isinstance(hub.chat_template, str) else None
    return tokenizer


def _named_by_model(hub: Any, folder: Path) -> str | None:
    ends = read_json(folder / CONFIG).get("eos_token_id")
    first = ends[0] if isinstance(ends, list) and ends else ends
    return str(hub.convert_ids_to_tokens(first)) if type(first) is int and first < len(hub) else None


def _piece(token: str) -> bytes:
    if match := _BYTE.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_SPACE, " ").encode("utf-8", "replace")

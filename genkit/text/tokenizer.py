"""Text to token ids and back, on the `tokenizers` library alone.

Three kinds: one token per character, byte-level BPE (Sennrich et al. 2016;
Radford et al. 2019) trained on the user's text, and any `tokenizer.json`. All
are saved as `transformers.AutoTokenizer` reads them.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from genkit.errors import InputError
from genkit.files import input_errors, open_regular, read_json, write_bytes, write_json
from genkit.library import MAX_TOKENIZER, TOKENIZER
from genkit.text.cutting import SPLIT_PATTERN, cut_point

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"

_EOS_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>")
_LONG_TEXT = 1 << 18  # characters; the regular expressions give up on runs of some millions
_LONG_WORD = 256
_MAX_TEMPLATE = 1 << 20  # bytes


class Tokenizer:
    """A `tokenizers.Tokenizer` that treats all input as plain text.

    Special tokens spelled out in a text are encoded like any other characters,
    and nothing is added, padded or cut: `decode(encode(text)) == text` for the
    tokenizers trained here.

    Args:
        model: the tokenizer to wrap; its padding and truncation are switched off.
        eos: the token that ends a document; found by its usual names when None.
        bos: the token that begins one; `eos` when the tokenizer has none.

    Attributes:
        eos_id, bos_id: their ids.
        vocab_size: one more than the highest id.
        chat_template: Jinja that makes text of a conversation, where there is one.

    Raises:
        InputError: there is no end-of-text token.
    """

    def __init__(self, model: tokenizers.Tokenizer, eos: str | None = None, bos: str | None = None) -> None:
        model.no_padding()
        model.no_truncation()
        model.encode_special_tokens = True
        vocab = model.get_vocab(with_added_tokens=True)
        eos = eos or next((name for name in _EOS_NAMES if name in vocab), None)
        if eos is None or eos not in vocab:
            raise InputError(
                f"the tokenizer has no end-of-text token {eos}" if eos else "the tokenizer names no end-of-text token",
                "name one as eos_token in the tokenizer_config.json beside it",
            )
        self._model = model
        self.eos, self.bos = eos, bos if bos in vocab else eos
        self.eos_id, self.bos_id = vocab[self.eos], vocab[self.bos]
        self.vocab_size: int = max(vocab.values()) + 1
        self.chat_template: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`, or the one in a model directory.

        Raises:
            InputError: missing, over 128 MiB, or not a tokenizer.
        """
        path = Path(path)
        if path.is_dir():
            path = path / TOKENIZER
        with input_errors(path), open_regular(path) as file:
            data = file.read(MAX_TOKENIZER + 1)
        if len(data) > MAX_TOKENIZER:
            raise InputError(f"{path} is over {MAX_TOKENIZER >> 20} MiB, which no tokenizer is")
        config = path.with_name("tokenizer_config.json")
        names = read_json(config) if config.is_file() else {}
        with _rust_errors(f"{path} is not a tokenizer.json of the tokenizers library"):
            model = tokenizers.Tokenizer.from_buffer(data)
        try:
            tokenizer = cls(model, _token_name(names.get("eos_token")), _token_name(names.get("bos_token")))
        except InputError as error:
            raise InputError(f"{path}: {error.message}", error.hint) from error
        tokenizer.chat_template = _chat_template(path.with_name("chat_template.jinja"), names.get("chat_template"))
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, each atomically.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_bytes(Path(folder, TOKENIZER), self.to_json().encode())
        write_json(Path(folder, "tokenizer_config.json"), self.config())

    def to_json(self) -> str:
        """The contents of `tokenizer.json`."""
        return str(self._model.to_str(pretty=True))

    def config(self) -> dict[str, Any]:
        """The contents of `tokenizer_config.json`."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos,
            "eos_token": self.eos,
            "pad_token": self.eos,
            "clean_up_tokenization_spaces": False,
            **({"chat_template": self.chat_template} if self.chat_template else {}),
        }

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`.

        Raises:
            InputError: the text is not valid Unicode, or beyond this tokenizer.
        """
        start, pieces = 0, []
        while self.splits_at_words and len(text) - start > _LONG_TEXT:
            stop = cut_point(text, start, _LONG_TEXT)
            pieces.append(text[start:stop])
            start = stop
        return [token for ids in self.encode_batch([*pieces, text[start:]]) for token in ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, on all cores; errors as `encode`."""
        try:
            with _rust_errors("the tokenizer cannot encode the text"):
                encodings = self._model.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError as error:
            raise InputError("the text is not valid Unicode: it holds half a surrogate pair", "use UTF-8") from error
        return [encoding.ids for encoding in encodings]

    def encode_framed(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with the special tokens that the tokenizer puts around one, if it does."""
        with _rust_errors("the tokenizer cannot encode the text"):
            return [encoding.ids for encoding in self._model.encode_batch_fast(texts, add_special_tokens=True)]

    def encode_rendered(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of text that a chat template wrote, and which characters each one stands for.

        Here, and only here, the names of special tokens mean the tokens.
        """
        self._model.encode_special_tokens = False
        try:
            with _rust_errors("the tokenizer cannot encode the text"):
                encodings = self._model.encode_batch(texts, add_special_tokens=False)
        finally:
            self._model.encode_special_tokens = True
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of `text`, and from which to which character each one goes; errors as `encode`."""
        try:
            with _rust_errors("the tokenizer cannot encode the text"):
                encoding = self._model.encode(text, add_special_tokens=False)
        except TypeError as error:
            raise InputError("the text is not valid Unicode: it holds half a surrogate pair", "use UTF-8") from error
        return encoding.ids, encoding.offsets

    @property
    def specials(self) -> list[str]:
        """The names of all special tokens."""
        return [token.content for token in self._model.get_added_tokens_decoder().values() if token.special]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens leave no trace."""
        return str(self._model.decode(list(ids), skip_special_tokens=True))

    @property
    def unknown_id(self) -> int | None:
        """What stands for a character that the vocabulary has not, where there can be one."""
        name = getattr(self._model.model, "unk_token", None)
        return None if name is None else self._model.token_to_id(name)

    def stream_decoder(self, before: Sequence[int] = ()) -> StreamDecoder:
        """A decoder that takes one token at a time, of a text that goes on from the tokens `before`."""
        return StreamDecoder(self, before)

    def whole_decoder(self, before: Sequence[int] = ()) -> WholeDecoder:
        """A decoder that gives all text at its end, and does less for it."""
        return WholeDecoder(self, before)

    def piece(self, token: int) -> str:
        """What a token reads as within a text; at the beginning of one some tokenizers leave out a blank."""
        return self.decode([*self._anchor, token])[len(self.decode(self._anchor)) :]

    @functools.cached_property
    def _anchor(self) -> list[int]:
        return self.encode("a")

    @functools.cached_property
    def opening(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text; one may be that which it puts behind another."""
        framed, own = self.encode_framed(["a"])[0], self._anchor
        if not own:  # a vocabulary without that letter
            return framed[:-1] if framed[-1:] == [self.eos_id] else framed
        before = (i for i in range(len(framed)) if framed[i : i + len(own)] == own)
        return framed[: next(before, 0)]

    @functools.cached_property
    def splits_at_words(self) -> bool:
        """Whether a text may be tokenized in the pieces that `cutting` makes of it."""
        if self._model.normalizer is not None:
            return False
        if self._model.pre_tokenizer is None:  # one token a character splits anywhere
            model = json.loads(self._model.to_str())["model"]
            return model["type"] == "BPE" and not model["merges"]
        return bool(self._model.pre_tokenizer.__getstate__() == _byte_level_pre_tokenizer().__getstate__())


class StreamDecoder:
    """Text as soon as it is certain, from one token at a time.

    A character whose bytes are spread over tokens is held back until it is
    whole: what `push` and `flush` return joins to `decode` of all ids.

    Args:
        before: the last tokens of what the text goes on from. A decoder of sentencepiece
            drops the blank that begins a text, and that is not where this one begins.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)  # tokens already returned, for context, then pending ones
        self._context = len(self._ids)  # how many are context
        self._sent = len(tokenizer.decode(self._ids))  # characters of their text that were returned

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        whole = text.rstrip("\ufffd")  # unfinished characters decode to U+FFFD
        new = whole[self._sent :]
        self._sent += len(new)
        if new and whole == text:
            self._ids = self._ids[self._context :]
            self._context = len(self._ids)
            self._sent = len(self._tokenizer.decode(self._ids))
        return new

    def flush(self) -> str:
        """What is left when no more tokens come: U+FFFD for a broken character."""
        rest = self._tokenizer.decode(self._ids)[self._sent :]
        self._ids, self._context, self._sent = [], 0, 0
        return rest


class WholeDecoder:
    """The text that `StreamDecoder` gives in pieces, from `flush` alone."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer, self._ids = tokenizer, list(before)
        self._sent = len(tokenizer.decode(self._ids)) if before else 0

    def push(self, token: int) -> str:
        self._ids.append(token)
        return ""

    def flush(self) -> str:
        return self._tokenizer.decode(self._ids)[self._sent :]


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE that holds every byte, so that any text can be encoded.

    Args:
        texts: the sample to count pairs in.
        vocab_size: tokens to aim at, from 257; fewer come out when pairs that
            occur twice run out.
    """
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = _byte_level_pre_tokenizer()
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(_without_long_words(texts), trainer)
    return Tokenizer(model)


def train_char(texts: Iterable[str]) -> Tokenizer:
    """One token for each character of `texts`, in code point order; others become `<unk>`."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocab = {token: index for index, token in enumerate([END_OF_TEXT, UNKNOWN, *sorted(characters)])}
    # BPE without merges looks up character after character, many times faster than
    # WordLevel behind a pre-tokenizer that splits off each one
    model = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token=UNKNOWN, fuse_unk=False))
    model.decoder = decoders.Fuse()
    model.add_special_tokens([END_OF_TEXT])
    return Tokenizer(model)


def _byte_level_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )


def _without_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Counting pairs takes time quadratic in a word: DNA, base64 or blanks stop it for good."""
    from genkit.text.words import words  # numpy, which sampling does without

    for text in texts:
        found = words(text)
        if max(map(len, found), default=0) <= _LONG_WORD:
            yield text
        else:
            yield from (word[i : i + _LONG_WORD] for word in found for i in range(0, len(word), _LONG_WORD))


def _token_name(value: Any) -> str | None:
    """`transformers` writes a special token as text or as an object with its settings."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _chat_template(file: Path, named: Any) -> str | None:
    """`transformers` writes the template as a file of its own, before as text or as a list of named ones."""
    if file.is_file():
        with input_errors(file), open_regular(file) as stream:
            return stream.read(_MAX_TEMPLATE).decode("utf-8", "replace")
    if isinstance(named, list):
        found = {entry.get("name"): entry.get("template") for entry in named if isinstance(entry, dict)}
        named = found.get("default")
    return named if isinstance(named, str) else None


@contextlib.contextmanager
def _rust_errors(message: str) -> Iterator[None]:
    """Make InputErrors of what the Rust library raises, its panics included."""
    try:
        yield
    except TypeError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise InputError(f"{message}: {error}") from error
        raise

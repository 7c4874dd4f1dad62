"""Tokenizers: lossless, plain, streamable, and the same in `transformers`."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from genkit.errors import InputError
from genkit.text import tokenizer as module
from genkit.text.tokenizer import Tokenizer, train_bpe, train_char

STORY = "Once upon a time there was a little cat. The cat sat on the mat, and the mat said: “Don’t!”\n\n" * 20
ALL = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([STORY], 400)


@pytest.fixture(scope="module")
def char() -> Tokenizer:
    return train_char([STORY])


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    pools = (ALL, ALL[:0x250], list(" \n\r\t.,'aé日1😀\u0301\u00a0\u3000"))
    return ["".join(rng.choices(rng.choice(pools), k=rng.randrange(40))) for _ in range(count)]


# ---- training ----------------------------------------------------------------


def test_bpe_merges_the_most_frequent_pair_first() -> None:
    tokenizer = train_bpe(["ab ab ab"], 259)  # ab 3 times, then " ab" twice
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("ab ab") == [257, 258]
    assert [tokenizer.decode([i]) for i in (257, 258)] == ["ab", " ab"]


def test_bpe_is_smaller_when_no_pair_comes_twice() -> None:
    assert train_bpe(["abc"], 4096).vocab_size == 257  # 256 bytes and the end of text


def test_bpe_training_is_deterministic() -> None:
    assert train_bpe([STORY, STORY[:100]], 350).to_json() == train_bpe([STORY, STORY[:100]], 350).to_json()


@pytest.mark.parametrize(
    "text", ["ACGT" * 100_000, "".join(random.Random(0).choices("ACGT", k=200_000)), " " * 300_000]
)
def test_bpe_trains_on_endless_words(text: str) -> None:
    assert train_bpe([text], 300).vocab_size > 257


def test_char_has_one_token_a_character() -> None:
    tokenizer = train_char(["ba", "ac"])
    assert tokenizer.encode("abc") == [2, 3, 4]  # after the end of text and <unk>
    assert tokenizer.vocab_size == 5


def test_char_gives_unknown_characters_one_token_each() -> None:
    tokenizer = train_char(["ab"])
    assert tokenizer.encode("a日日b") == [2, 1, 1, 3]
    assert tokenizer.decode([2, 1, 3]) == "a<unk>b"


def test_the_end_of_text_begins_a_text_too(bpe: Tokenizer, char: Tokenizer) -> None:
    for tokenizer in (bpe, char):
        assert (tokenizer.eos, tokenizer.eos_id, tokenizer.bos_id) == ("<|endoftext|>", 0, 0)


# ---- encoding and decoding ---------------------------------------------------


def test_bpe_is_lossless_for_all_of_unicode(bpe: Tokenizer) -> None:
    text = "".join(ALL)
    assert bpe.decode(bpe.encode(text)) == text


def test_round_trips(bpe: Tokenizer, char: Tokenizer) -> None:
    for text in [*random_texts(500), "", " ", "\r\n", "\0\ufeff", "e\u0301 é"]:
        assert bpe.decode(bpe.encode(text)) == text
    assert char.decode(char.encode(STORY)) == STORY


def test_special_tokens_in_text_are_text(bpe: Tokenizer) -> None:
    text = "a<|endoftext|>b"
    assert bpe.eos_id not in bpe.encode(text)
    assert bpe.decode(bpe.encode(text)) == text
    assert train_char(["<unk>|endoftx"]).encode("<|endoftext|><unk>").count(0) == 0


def test_special_tokens_leave_no_trace(bpe: Tokenizer) -> None:
    assert bpe.decode([bpe.eos_id, *bpe.encode("hi"), bpe.eos_id]) == "hi"


def test_batches_equal_single_texts(bpe: Tokenizer) -> None:
    texts = random_texts(50)
    assert bpe.encode_batch(texts) == [bpe.encode(text) for text in texts]


@pytest.mark.parametrize("char_", ["a", " ", "\n", "!", "7", "日", "ab ", "\t\n"])
def test_long_runs(bpe: Tokenizer, char_: str) -> None:
    text = char_ * (1_000_000 // len(char_)) + "x"
    assert bpe.decode(bpe.encode(text)) == text


def test_long_texts_have_the_tokens_of_the_whole(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [STORY, *random_texts(200)]
    whole = [bpe.encode(text) for text in texts]
    monkeypatch.setattr(module, "_LONG_TEXT", 120)
    assert [bpe.encode(text) for text in texts] == whole


def test_half_a_surrogate_pair_is_refused(bpe: Tokenizer) -> None:
    with pytest.raises(InputError, match="not valid Unicode"):
        bpe.encode("a\ud800b")


def test_a_panic_of_the_library_is_an_input_error(capfd: pytest.CaptureFixture[str]) -> None:
    model = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "x": 1}, unk_token="x"))
    model.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("(a|aa)+$"), "isolated")
    with pytest.raises(InputError, match="cannot encode"):
        Tokenizer(model).encode("a" * 100 + "b")


# ---- streaming ---------------------------------------------------------------


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = tokenizer.stream_decoder()
    return [*(decoder.push(token) for token in ids), decoder.flush()]


def test_a_character_comes_when_it_is_whole(bpe: Tokenizer) -> None:
    ids = bpe.encode("a😀b")
    assert len(ids) == 6
    assert stream(bpe, ids) == ["a", "", "", "", "😀", "b", ""]


def test_a_broken_character_comes_at_the_end(bpe: Tokenizer) -> None:
    ids = bpe.encode("a😀")[:-1]
    assert stream(bpe, ids) == ["a", "", "", "", "\ufffd"]


def test_streams_join_to_the_whole(bpe: Tokenizer, char: Tokenizer) -> None:
    rng = random.Random(1)
    for tokenizer in (bpe, char):
        for _ in range(200):
            ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(60))]
            assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
    for text in random_texts(100):
        assert "".join(stream(bpe, bpe.encode(text))) == text


def test_a_stream_decoder_starts_afresh_after_flush(bpe: Tokenizer) -> None:
    decoder = bpe.stream_decoder()
    decoder.push(bpe.encode("😀")[0])
    assert decoder.flush() == "\ufffd"
    assert decoder.push(bpe.encode("a")[0]) == "a"


def test_streams_of_a_sentencepiece_tokenizer_keep_their_spaces() -> None:
    model = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "▁the": 1, "▁cat": 2}, unk_token="</s>"))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = tokenizers.decoders.Metaspace()
    assert stream(Tokenizer(model), [1, 2, 1]) == ["the", " cat", " the", ""]


# ---- files -------------------------------------------------------------------


def test_saved_tokenizers_come_back(bpe: Tokenizer, char: Tokenizer, tmp_path: Path) -> None:
    for tokenizer in (bpe, char):
        tokenizer.save(tmp_path)
        for path in (tmp_path, tmp_path / "tokenizer.json"):
            loaded = Tokenizer.load(path)
            assert loaded.to_json() == tokenizer.to_json()
            assert loaded.splits_at_words
            assert loaded.encode(STORY) == tokenizer.encode(STORY)
    assert sorted(os.listdir(tmp_path)) == ["tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "gpt2", None])
def test_transformers_gives_the_same_ids(
    bpe: Tokenizer, char: Tokenizer, tmp_path: Path, model_type: str | None
) -> None:
    from transformers import AutoTokenizer

    if model_type:  # which `transformers` consults for the tokenizer's class
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for tokenizer in (bpe, char):
        tokenizer.save(tmp_path)
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        for text in [STORY, *random_texts(300)]:
            ids = tokenizer.encode(text)
            assert theirs(text)["input_ids"] == ids
            assert theirs.decode(ids) == tokenizer.decode(ids)
        assert {theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id} == {0}
        assert len(theirs) == tokenizer.vocab_size


def test_the_config_asks_for_no_code(bpe: Tokenizer) -> None:
    assert set(bpe.config()) == {
        "tokenizer_class", "bos_token", "eos_token", "pad_token", "clean_up_tokenization_spaces",
    }  # fmt: skip


def foreign(folder: Path, *, vocab: dict[str, int], config: object = None) -> Path:
    """A tokenizer.json as others write it: it pads, cuts, and adds tokens of its own."""
    model = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="a"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.enable_padding(length=8)
    model.enable_truncation(2)
    first = next(iter(vocab))
    model.post_processor = tokenizers.processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, 0)])
    model.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_foreign_settings_do_not_change_a_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(foreign(tmp_path, vocab={"</s>": 0, "a": 1, "b": 2}))
    assert tokenizer.encode("a b a b") == [1, 2, 1, 2]
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.splits_at_words) == (0, 0, False)


@pytest.mark.parametrize("name", ["end", {"content": "end", "special": True}])
def test_the_end_of_text_is_named_beside_the_file(tmp_path: Path, name: object) -> None:
    config = {"eos_token": name, "bos_token": "start", "auto_map": {"AutoTokenizer": "evil.Code"}}
    vocab = {"a": 0, "start": 3, "end": 7}
    tokenizer = Tokenizer.load(foreign(tmp_path, vocab=vocab, config=config))
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (7, 3, 8)
    assert "auto_map" not in tokenizer.config()


@pytest.mark.parametrize("config", [None, {"eos_token": "missing"}, {"eos_token": ["odd"]}])
def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path, config: object) -> None:
    with pytest.raises(InputError, match="end-of-text token") as caught:
        Tokenizer.load(foreign(tmp_path, vocab={"a": 0}, config=config))
    assert str(tmp_path) in caught.value.message
    assert "eos_token" in str(caught.value.hint)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": {"type": "BPE"', b"\x80\x04\x95",
     b'{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[["a","b"]]}}',
     b'{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":-1},"unk_token":"a"}}'],
)  # fmt: skip
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not a tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert str(path) in caught.value.message


def test_missing_and_odd_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="No such file"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="No such file"):
        Tokenizer.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file"):
        Tokenizer.load(tmp_path / "pipe")
    train_char(["a"]).save(tmp_path)
    monkeypatch.setattr(module, "MAX_TOKENIZER", 100)
    with pytest.raises(InputError, match="which no tokenizer is"):
        Tokenizer.load(tmp_path)


@pytest.fixture
def pieces() -> Tokenizer:
    """As sentencepiece's are: a blank belongs to the word behind it, and none begins a text."""
    vocab = {token: place for place, token in enumerate(["<s>", "</s>", "<unk>", "\u2581", *"acehst"])}
    merges = [("h", "e"), ("t", "he"), ("\u2581", "the"), ("a", "t"), ("c", "at"), ("\u2581", "cat"), ("s", "at")]
    merges += [("\u2581", "sat")]
    vocab |= {"".join(pair): len(vocab) + place for place, pair in enumerate(merges)}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="<unk>"))
    model.pre_tokenizer, model.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    model.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(model)


def test_a_text_that_goes_on_keeps_its_blank(pieces: Tokenizer) -> None:
    prompt, (sat,) = pieces.encode("the cat"), pieces.encode("sat")
    assert pieces.decode([sat]) == "sat"  # at the beginning of a text
    assert pieces.stream_decoder(prompt).push(sat) == " sat"
    assert pieces.stream_decoder(prompt[-1:]).push(sat) == " sat"
    assert pieces.stream_decoder().push(sat) == "sat"
    assert pieces.piece(sat) == " sat"
    decoder = pieces.stream_decoder(prompt)
    assert "".join([*map(decoder.push, [sat, *prompt]), decoder.flush()]) == " sat the cat"


def test_the_opening_of_a_text(pieces: Tokenizer, bpe: Tokenizer) -> None:
    assert pieces.opening == [0]
    assert bpe.opening == []


@pytest.mark.parametrize(
    ("letters", "single", "opening"),
    [
        ("ab", "</s> $A", [1]),
        ("ab", "$A </s>", []),
        ("ab", "</s> $A </s>", [1]),
        ("ab", "$A", []),
        ("01", "</s> $A </s>", [1]),  # no letter to tell one side from the other
        ("01", "$A </s>", []),
    ],
)
def test_one_token_may_open_and_end_a_text(letters: str, single: str, opening: list[int]) -> None:
    vocab = {token: place for place, token in enumerate(["<s>", "</s>", *letters])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    model.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=[("</s>", 1)])
    model.add_special_tokens(["<s>", "</s>"])
    assert Tokenizer(model).opening == opening

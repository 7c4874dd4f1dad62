"""Conversations: what is read as one, what becomes text, and which of it counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genkit.errors import InputError
from genkit.text import documents
from genkit.text.chat import TEMPLATE, ChatTemplate, is_conversation, messages_of
from genkit.text.data import Corpus, prepare
from genkit.text.documents import iter_pieces
from genkit.text.tokenizer import Tokenizer, train_bpe
from genkit.text.trainconfig import TextTrainConfig

EOS = "<|endoftext|>"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello, who are you? "},
    {"role": "assistant", "content": " I am a model.\n"},
    {"role": "user", "content": "Good.\n\nAnd I?"},
    {"role": "assistant", "content": "You are a  user."},
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# source, and the answers that count; $ stands for the end-of-text token behind a document
TEMPLATES = {
    "ours": (TEMPLATE, [f"I am a model.{EOS}", "You are a  user.$"]),
    "chatml": (CHATML, [" I am a model.\n<|im_end|>", "You are a  user.<|im_end|>$"]),
    "no end mark": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        ["  I am a model.", " You are a  user.$"],
    ),
    "no prompt": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content | trim }}{{ eos_token }}"
        "{% else %}[INST]{{ m.content | trim }}[/INST]{% endif %}{% endfor %}",
        [f"I am a model.{EOS}", "You are a  user.$"],
    ),
    "the prompt thinks, the text does not": (
        CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>\n{%"),
        [" I am a model.\n<|im_end|>", "You are a  user.<|im_end|>$"],
    ),
    "thoughts are kept in the last answer": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think></think>"
        "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        [" I am a model.\n<|im_end|>", "<think></think>You are a  user.<|im_end|>$"],
    ),
    "generation tags": (
        "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}Q:{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        [" I am a model.", "You are a  user.$"],
    ),
}


def template(source: str = TEMPLATE) -> ChatTemplate:
    return ChatTemplate(source, specials=["<|im_start|>", "<|im_end|>", EOS], bos="<s>", eos=EOS)


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def refused(record: dict[str, Any], source: str = TEMPLATE) -> InputError:
    with pytest.raises(InputError) as caught:
        template(source).conversation(record, "a.jsonl, line 7")
    assert caught.value.message.startswith("a.jsonl, line 7: ")
    return caught.value


# ---- records -----------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"messages": [{"role": "user", "content": [{"text": "Q"}]}, {"role": "assistant", "content": "A"}]},
        {"prompt": "Q", "completion": "A"},
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "input": "", "output": "A", "id": 3},
        {"instruction": "Q", "input": None, "output": "A"},
    ],
)  # fmt: skip
def test_records_of_all_kinds(record: dict[str, Any]) -> None:
    assert is_conversation(record)
    question, answer = messages_of(record, "here")
    assert (question, answer) == ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"})


def test_an_input_belongs_to_the_question() -> None:
    question, _ = messages_of({"instruction": "Add.", "input": "1 2", "output": "3"}, "here")
    assert question["content"] == "Add.\n\n1 2"


@pytest.mark.parametrize("fields", [["text"], ["prompt"], ["completion", "text"], ["instruction", "input"], []])
def test_other_records_are_no_conversations(fields: list[str]) -> None:
    assert not is_conversation(fields)


@pytest.mark.parametrize(
    ("record", "message", "hint"),
    [
        ({"messages": []}, "the conversation has no answer", "message of the assistant"),
        ({"messages": TALK[:2]}, "the conversation has no answer", "message of the assistant"),
        ({"messages": "hello"}, "messages is not a list of objects", '"role"'),
        ({"messages": ["hello"]}, "messages is not a list of objects", '"role"'),
        ({"messages": [{"role": "tool", "content": "1"}]}, "the role 'tool' is not one of system, user", "leave such"),
        ({"messages": [{"content": "1"}]}, "the role None is not one of", "leave such"),
        ({"messages": [{"role": ["user"], "content": "1"}]}, r"the role \['user'\] is not one of", "leave such"),
        ({"messages": [{"role": "user", "content": None}]}, "content is NoneType, not a string", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content is list, not", "text"),
        ({"prompt": "Q", "completion": 4}, "completion is int, not a string", "text"),
        ({"instruction": ["Q"], "output": "A"}, "instruction is list, not a string", "text"),
        (
            {"prompt": "Q", "completion": f"A{EOS}B"},
            r"the assistant says <\|endoftext\|>, which is a special",
            "take it",
        ),
        ({"prompt": "<|im_start|>", "completion": "A"}, r"the user says <\|im_start\|>", "take it"),
    ],
)
def test_records_that_are_refused(record: dict[str, Any], message: str, hint: str) -> None:
    error = refused(record)
    assert re.search(message, error.message)
    assert hint in str(error.hint)


# ---- templates ---------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_are_found(name: str) -> None:
    source, expected = TEMPLATES[name]
    text, spans = template(source).conversation({"messages": TALK}, "here")
    assert [(text + "$")[a:b] for a, b in spans] == expected


def test_our_template_by_hand() -> None:
    text, spans = template().conversation({"messages": TALK[1:]}, "here")
    assert text == (
        "### User:\nHello, who are you?\n\n### Assistant:\nI am a model.<|endoftext|>\n\n"
        "### User:\nGood.\n\nAnd I?\n\n### Assistant:\nYou are a  user."
    )
    assert [text[a:b] for a, b in spans] == ["I am a model.<|endoftext|>", "You are a  user."]
    assert spans[-1][1] == len(text) + 1  # the end mark that every document has


def test_a_conversation_may_begin_with_an_answer() -> None:
    text, spans = template().conversation({"messages": [TALK[2], TALK[1]]}, "here")
    assert [text[a:b] for a, b in spans] == ["I am a model.<|endoftext|>"]
    assert text.endswith("### User:\nHello, who are you?")


def test_an_answer_may_be_empty() -> None:
    text, spans = template().conversation({"prompt": "Q", "completion": ""}, "here")
    assert text == "### User:\nQ\n\n### Assistant:\n"
    assert spans == ((len(text), len(text) + 1),)


def test_a_template_that_changes_what_was_said_is_refused() -> None:
    for body in ("all the same", "{{ m.content | length }}", "{{ m.content[:9] }}", "{{ m.content }}{{ m.content }}"):
        source = f"{{% for m in messages %}}{body}{{% endfor %}}"
        assert "changes what was said" in refused({"messages": TALK}, source).message
    backwards = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
    assert "changes what was said" in refused({"messages": TALK}, backwards).message


def test_a_template_that_refuses_or_fails_is_named() -> None:
    assert (
        "roles must alternate" in refused({"messages": TALK}, "{{ raise_exception('roles must alternate') }}").message
    )
    assert "refuses the conversation" in refused({"messages": TALK}, "{{ messages[99].content }}").message
    assert "refuses the conversation" in refused({"messages": TALK}, "{{ 1 / 0 }}").message
    for source in ("{% for", "{% if 1 %}{% for i in [] %}" * 30 + "{% endfor %}{% endif %}" * 30, "{{ " + "(" * 5000):
        with pytest.raises(InputError, match="not valid Jinja"):
            template(source).conversation({"messages": TALK}, "here")


def test_templates_are_sandboxed() -> None:
    for source in ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% set _ = messages.append(1) %}",
                   "{% for i in range(10**9) %}{% endfor %}"):  # fmt: skip
        assert "refuses the conversation" in refused({"messages": TALK}, source).message


def test_what_templates_may_call() -> None:
    source = "{{ strftime_now('%Y') | length }}{{ {'é': '<'} | tojson }}" + TEMPLATE
    text, _ = template(source).conversation({"messages": TALK}, "here")
    assert text.startswith('4{"é": "<"}')


# ---- documents ---------------------------------------------------------------


@pytest.mark.parametrize("piece", [5, 16, 50, 1 << 18])
def test_long_conversations_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(documents, "PIECE", piece)
    path = lines(tmp_path / "a.jsonl", [{"messages": TALK}, {"text": "plain"}, {"messages": TALK[1:3]}])
    pieces = list(iter_pieces([path], template=template()))
    assert [p.first for p in pieces] == [True, *(p.last for p in pieces[:-1])]
    assert all(0 < len(p.text) <= piece for p in pieces)
    whole = template().conversation({"messages": TALK}, "here")
    ours = pieces[: next(i for i, p in enumerate(pieces) if p.last) + 1]
    assert "".join(p.text for p in ours) == whole.text
    assert all(p.spans is not None for p in ours)
    answers = "".join(p.text[a:b] for p in ours for a, b in p.spans or ())
    assert answers == "".join(whole.text[a:b] for a, b in whole.spans)
    assert ours[-1].spans
    assert ours[-1].spans[-1][1] == len(ours[-1].text) + 1


def test_only_where_the_text_field_is_missing(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": "plain", "prompt": "Q", "completion": "A"}])
    (piece,) = iter_pieces([path], template=template())
    assert (piece.text, piece.spans) == ("plain", None)
    path = lines(tmp_path / "a.jsonl", [{"prompt": "Q", "completion": "A"}])
    with pytest.raises(InputError, match="no field 'text'"):
        list(iter_pieces([path]))


def test_half_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "Q", "completion": "a\\ud800b"}')
    with pytest.raises(InputError, match=r"line 1: half a surrogate pair, \\ud800"):
        list(iter_pieces([path], template=template()))
    (piece,) = iter_pieces([path], template=template(), errors="replace")
    assert piece.text.endswith("a\ufffdb")


def test_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,completion\n"Q, 1",A\n')
    (piece,) = iter_pieces([tmp_path / "a.csv"], template=template())
    assert piece.text == "### User:\nQ, 1\n\n### Assistant:\nA"
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"id": [1, 2], "messages": [TALK, TALK[1:3]]}), tmp_path / "a.parquet")
    first, second = iter_pieces([tmp_path / "a.parquet"], template=template())
    assert first.text == template().conversation({"messages": TALK}, "here").text
    assert second.spans


# ---- tokens ------------------------------------------------------------------


def talks(count: int) -> list[list[dict[str, str]]]:
    return [
        [
            {"role": "user", "content": f"What is {i} and {j}?"},
            {"role": "assistant", "content": f"It’s {i + j}!"},
            *TALK[1 : 1 + 2 * (i % 3)],
        ]
        for i, j in ((n, n * n) for n in range(count))
    ]


def made(tmp_path: Path, records: list[Any], given: Tokenizer | None = None, **settings: Any) -> Corpus:
    path = lines(tmp_path / "a.jsonl", records)
    settings = {"tokenizer": "bpe", "vocab_size": 400, "val_fraction": 0.0} | settings
    return prepare(TextTrainConfig(data=(str(path),), **settings), tmp_path / "tokens", given)


@pytest.fixture(autouse=True)
def tokens_folder(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()


def counted(corpus: Corpus) -> str:
    """The text of the tokens that count, end marks included."""
    assert corpus.train_mask is not None
    ids = corpus.train[np.asarray(corpus.train_mask) == 1]
    parts = np.split(ids, np.flatnonzero(ids == corpus.tokenizer.eos_id) + 1)
    return "".join(corpus.tokenizer.decode(part.tolist()) + EOS * (corpus.tokenizer.eos_id in part) for part in parts)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_transformers_renders_and_tokenizes_the_same(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    conversations = talks(30)
    corpus = made(tmp_path, [{"messages": talk} for talk in conversations], tokenizer=kind)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokens")
    assert theirs.chat_template == TEMPLATE == corpus.tokenizer.chat_template
    expected: list[int] = []
    for talk in conversations:
        ids = theirs.apply_chat_template(talk, return_dict=False)
        expected += ids if ids[-1] == corpus.tokenizer.eos_id else [*ids, corpus.tokenizer.eos_id]
    assert corpus.train.tolist() == expected
    answers = [
        message["content"].strip() for talk in conversations for message in talk if message["role"] == "assistant"
    ]
    assert counted(corpus) == "".join(answer + EOS for answer in answers)
    assert corpus.targets_train == int(np.asarray(corpus.train_mask).sum())
    assert corpus.conversations == corpus.documents == 30


def test_a_template_of_the_tokenizers_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import tokenizers

    trained = train_bpe([json.dumps(talk) for talk in talks(50)], 400)
    model = tokenizers.Tokenizer.from_str(trained.to_json())
    model.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer(model, eos="<|im_end|>")
    tokenizer.chat_template = CHATML
    corpus = made(tmp_path, [{"messages": talk} for talk in talks(20)], tokenizer, tokenizer="auto", vocab_size=4096)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokens")
    expected: list[int] = []
    for talk in talks(20):
        ids = theirs.apply_chat_template(talk, return_dict=False)
        expected += ids[: max(i for i, token in enumerate(ids) if token == tokenizer.eos_id) + 1]
    assert corpus.train.tolist() == expected
    assert corpus.train_mask is not None
    kept = corpus.train[np.asarray(corpus.train_mask) == 1].tolist()
    assert kept.count(tokenizer.eos_id) == sum(m["role"] == "assistant" for talk in talks(20) for m in talk)
    assert not set(kept) & {model.token_to_id("<|im_start|>")}


def test_a_template_file_beside_the_tokenizer(tmp_path: Path) -> None:
    trained = train_bpe(["some text"], 300)
    trained.chat_template = "named in the settings"
    trained.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template == "named in the settings"
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert Tokenizer.load(tmp_path).chat_template == CHATML
    (tmp_path / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "tools", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Tokenizer.load(tmp_path).chat_template == "y"


def test_the_end_mark_is_not_learnt_as_text(tmp_path: Path) -> None:
    corpus = made(tmp_path, [{"messages": talk} for talk in talks(200)], tokenizer="bpe", vocab_size=600)
    vocabulary = json.loads(corpus.tokenizer.to_json())["model"]["vocab"]
    assert not [token for token in vocabulary if "endof" in token and token != EOS]
    assert "<" not in made_alphabet(tmp_path)


def made_alphabet(tmp_path: Path) -> str:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokens").mkdir()
    corpus = made(tmp_path / "b", [{"messages": talk} for talk in talks(20)], tokenizer="char")
    return "".join(token for token in json.loads(corpus.tokenizer.to_json())["model"]["vocab"] if len(token) == 1)


def test_plain_text_beside_conversations_counts_everywhere(tmp_path: Path) -> None:
    corpus = made(tmp_path, [{"text": "one story"}, {"messages": talks(1)[0]}, {"text": "another story"}])
    assert counted(corpus) == f"one story{EOS}It’s 0!{EOS}another story{EOS}"
    assert corpus.conversations == 1
    assert corpus.targets_train < corpus.tokens_train


def test_validation_has_a_mask_too(tmp_path: Path) -> None:
    corpus = made(tmp_path, [{"messages": talk} for talk in talks(100)], val_fraction=0.2)
    assert corpus.val is not None
    assert corpus.val_mask is not None
    assert len(corpus.val) == len(corpus.val_mask) == corpus.tokens_val
    assert len(corpus.train) == len(np.asarray(corpus.train_mask)) == corpus.tokens_train
    ids = corpus.val[np.asarray(corpus.val_mask) == 1]
    text = corpus.tokenizer.decode(ids.tolist())
    assert len(ids) == corpus.targets_val
    assert corpus.bytes_val_targets == len(text.encode())
    assert corpus.bytes_per_target == len(text.encode()) / len(ids)


def test_few_conversations_are_held_out_whole(tmp_path: Path) -> None:
    conversations = talks(8)
    corpus = made(tmp_path, [{"messages": talk} for talk in conversations], val_fraction=0.3)
    assert corpus.val is not None
    ends = [(side == corpus.tokenizer.eos_id).sum() for side in (corpus.train, corpus.val)]
    assert sum(ends) == sum(m["role"] == "assistant" for talk in conversations for m in talk)
    assert corpus.tokenizer.decode(corpus.val.tolist()).startswith("### User:\nWhat is ")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokens").mkdir()
    assert made(tmp_path / "b", [{"messages": conversations[0]}], val_fraction=0.3).val is None


def test_plain_text_needs_no_mask_nor_template(tmp_path: Path) -> None:
    corpus = made(tmp_path, [{"text": "plain"}])
    assert corpus.train_mask is None
    assert corpus.tokenizer.chat_template is None
    assert "chat_template" not in json.loads((tmp_path / "tokens" / "tokenizer_config.json").read_text())


def test_the_line_says_what_is_learnt(tmp_path: Path) -> None:
    corpus = made(tmp_path, [{"messages": talk} for talk in talks(50)])
    assert f"{100 * corpus.targets_train / corpus.tokens_train:.0f} % of what trains is learnt" in corpus.line()
